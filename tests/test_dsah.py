"""DSAH on small clouds: its losses by slow loops, every switch, every round, and who is refused."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hashcli_plugins.dsah import DSAH, pair_loss, pair_weights

from hashcli import graphs, nearest, neighbors, optimization
from hashcli.data import SourceData, TargetData, TrainingData
from hashcli.errors import UsageError
from hashcli.method import Run, Task
from hashcli.progress import Silent

DIM, BITS, GROUPS = 20, 16, 4
SHORT = {"epochs": 3, "steps_per_epoch": 4, "batch_size": 16, "hidden": 24}


def cloud(seed: int, n: int, spread: float = 0.8, dim: int = DIM) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, dim) around GROUPS centers, scaled as the host does, and their groups (n,)."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % GROUPS
    x = np.random.default_rng(99).normal(size=(GROUPS, dim))[group] + spread * rng.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(dim)).astype(np.float32), group


def photos(n_source: int = 0, n_target: int = 0, labels: np.ndarray | None = None) -> TrainingData:
    source = SourceData(cloud(1, n_source)[0], labels) if n_source else None
    return TrainingData(source, TargetData(cloud(2, n_target)[0]) if n_target else None, GROUPS)


def fitted(data: TrainingData, *, seed: int = 3, checkpoint: Path | None = None, **settings):
    """The fitted head and the log."""
    run = Run(seed, progress=Silent(), checkpoint=checkpoint)
    made = DSAH(Task(BITS, data.feature_dim, data.n_classes, seed), DSAH.Settings(**(SHORT | settings)))
    made.check(data)
    return made.fit(data, run).image, run.progress.events


def relaxed(data: TrainingData, **settings) -> np.ndarray:
    head, _ = fitted(data, **settings)
    with torch.no_grad():
        return np.concatenate([head(torch.from_numpy(d.features)).numpy() for d in (data.source, data.target) if d])


def rounds(data: TrainingData, **settings) -> list[dict]:
    return [counts for event, counts in fitted(data, **settings)[1] if event == "round"]


def weight_by_hand(cosines: list[float], s: float, pic: str, tau: float, pair_count: float) -> float:
    p = math.exp(s / tau) / (pair_count * sum(math.exp(c / tau) for c in cosines) / len(cosines))
    return {"on": -math.log(p), "off": 1.0, "minus": -math.log(1 - p)}[pic]


@pytest.mark.parametrize("pic", ["on", "off", "minus"])
@pytest.mark.parametrize(("tau", "pair_count"), [(1.0, 2500.0), (0.5, 400.0)])
def test_the_pair_loss_is_that_of_the_formulas_over_distinct_pairs(pic: str, tau: float, pair_count: float) -> None:
    rng = np.random.default_rng(0)
    z, paired = rng.normal(size=(7, 5)), rng.random((7, 7)) < 0.4
    rows = [0, 1, 2, 3, 4, 5, 2]
    distinct = np.array([[a != b for b in rows] for a in rows])
    inside = [(i, j) for i in range(7) for j in range(7) if rows[i] != rows[j]]
    cos = {(i, j): z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j]) for i, j in inside}
    wanted = np.mean(
        [
            weight_by_hand(list(cos.values()), cos[p], pic, tau, pair_count) * (cos[p] - (1 if paired[p] else -1)) ** 2
            for p in inside
        ]
    )
    found = pair_loss(torch.from_numpy(z), torch.from_numpy(paired), torch.from_numpy(distinct), pic, tau, pair_count)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_weights_of_the_authors_batch_are_those_known() -> None:
    spread = torch.linspace(-0.5, 0.5, 1000, dtype=torch.float64)
    for s, known in ((1.0, 6.86), (0.0, 7.86), (-1.0, 8.86)):
        cosines = torch.cat([spread, torch.tensor([s])])
        assert float(pair_weights(cosines, "on", 1.0, 2500.0)[-1]) == pytest.approx(known, abs=0.02)


def test_weights_do_not_depend_on_the_batch_size_and_never_turn_negative() -> None:
    few = torch.tensor([-0.3, 0.1, 0.8])
    many = few.repeat(100)
    for pic in ("on", "minus"):
        torch.testing.assert_close(pair_weights(many, pic, 1.0, 2500.0)[:3], pair_weights(few, pic, 1.0, 2500.0))
    one_alike = torch.cat([torch.full((20000,), -1.0), torch.ones(1)])
    for pic in ("on", "minus"):
        extreme = pair_weights(one_alike, pic, 0.05, 2500.0)
        assert torch.isfinite(extreme).all() and (extreme >= 0).all()


def test_detached_weights_leave_the_value_and_change_the_gradient() -> None:
    gradients, values = [], []
    for detach in (False, True):
        z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        loss = pair_loss(z, torch.eye(6) > 0, torch.eye(6) == 0, detach=detach)
        loss.backward()
        gradients.append(z.grad)
        values.append(loss.item())
    assert values[0] == values[1]
    assert not torch.allclose(*gradients)


def test_a_batch_of_one_photo_drawn_twice_gives_a_loss_of_zero() -> None:
    z = torch.ones(2, 4, requires_grad=True)
    loss = pair_loss(z, torch.zeros(2, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and not z.grad.any()


OTHERWISE = {
    "epochs": 4,
    "hidden": 30,
    "dropout": 0.3,
    "fit_on": "target",
    "k1": 2,
    "k2": 3,
    "cross_neighbors": 0,
    "rounds": 1,
    "discovery": False,
    "gamma": -0.5,
    "k_add": 1,
    "pic": "off",
    "tau": 0.5,
    "pair_count": 100.0,
    "detach": True,
    "lam": 0.0,
}


@pytest.fixture(scope="module")
def usual() -> np.ndarray:
    return relaxed(photos(40, 32), fit_on="both", gamma=0.0)


@pytest.mark.parametrize(("name", "value"), [*OTHERWISE.items(), ("pic", "minus"), ("fit_on", "source")])
def test_every_setting_changes_the_codes(name: str, value: object, usual: np.ndarray) -> None:
    changed = relaxed(photos(40, 32), **({"fit_on": "both", "gamma": 0.0} | {name: value}))
    assert np.isfinite(changed).all() and np.abs(changed).max() <= 1
    assert not np.allclose(changed, usual, atol=1e-6)


def test_labels_are_never_looked_at(usual: np.ndarray) -> None:
    for labels in (np.arange(40) % 3, np.eye(GROUPS, dtype=np.int64)[np.arange(40) % 4]):
        np.testing.assert_array_equal(relaxed(photos(40, 32, labels), fit_on="both", gamma=0.0), usual)


def test_fit_on_one_domain_is_as_if_the_other_were_not_there() -> None:
    both = photos(40, 32)
    x = torch.from_numpy(both.source.features)
    for name, alone in (("source", TrainingData(both.source, None)), ("target", TrainingData(None, both.target))):
        torch.testing.assert_close(fitted(both, fit_on=name)[0](x), fitted(alone)[0](x))
    torch.testing.assert_close(fitted(both)[0](x), fitted(both, fit_on="target")[0](x))


def test_rounds_report_what_was_found_and_the_pairs_add_up() -> None:
    data = photos(0, 60)
    log = rounds(data, epochs=6, gamma=0.0, k_add=2)
    first = neighbors.shared_neighbor_pairs(neighbors.neighbor_lists(graphs.unit_rows(data.target.features), 5), 5)
    assert [r["round"] for r in log] == [0, 1, 2]
    assert log[0]["pairs"] == first.nnz // 2 and log[0]["added"] == 0
    for before, after in itertools.pairwise(log):
        assert after["pairs"] == before["pairs"] + after["added"]
    assert 0 < log[1]["added"] <= 60 * 2
    for r in log:
        assert -1 <= r["mean"] <= 1 and r["deviation"] > 0 and 0 < r["bit_variance"] <= 1
        assert r["threshold"] == pytest.approx(r["mean"], abs=1e-4), "gamma is 0"


def test_a_larger_gamma_finds_fewer_pairs_and_no_discovery_none() -> None:
    data = photos(0, 60)
    added = [sum(r["added"] for r in rounds(data, gamma=gamma)) for gamma in (0.0, 0.5, 1.0, 10.0)]
    assert added == sorted(added, reverse=True) and added[0] > added[-1] == 0
    log = rounds(data, gamma=0.0, discovery=False)
    assert len({r["pairs"] for r in log}) == 1 and not any(r["added"] for r in log)


def test_discovery_stops_before_nearly_everything_is_paired() -> None:
    log = rounds(photos(0, 60), gamma=-10.0, k_add=60)
    assert [r["stopped"] for r in log] == [0, 1, 1]
    assert len({r["pairs"] for r in log}) == 1
    slowly = rounds(photos(0, 60), gamma=-10.0, k_add=4, rounds=6, epochs=6)
    assert slowly[1]["added"] and slowly[-1]["stopped"]
    assert all(2 * r["pairs"] <= 0.3 * 60**2 for r in slowly)


@pytest.mark.parametrize(("epochs", "n_rounds", "wanted"), [(1, 3, 1), (2, 3, 2), (7, 3, 3), (4, 1, 1)])
def test_rounds_share_the_epochs_and_are_never_more_than_those(epochs: int, n_rounds: int, wanted: int) -> None:
    assert len(rounds(photos(0, 20), epochs=epochs, rounds=n_rounds)) == wanted


def test_two_domains_are_paired_across_by_mutual_neighbors() -> None:
    data = photos(40, 32)
    counts = {event: counts for event, counts in fitted(data, fit_on="both")[1] if event != "losses"}
    crossing = neighbors.mutual_pairs(*(graphs.unit_rows(d.features) for d in (data.source, data.target)), 5)
    assert counts["neighbors"]["photos"] == 72
    assert counts["cross-domain neighbors"]["pairs"] == crossing.nnz // 2 > 0
    assert "cross-domain neighbors" not in dict(fitted(data, fit_on="both", cross_neighbors=0)[1])


def test_codes_of_a_group_come_nearer_to_each_other_than_untrained_ones() -> None:
    x, group = cloud(2, 120, spread=1.0)
    data = TrainingData(None, TargetData(x), 0)
    same = (group[:, None] == group[None, :]) & ~np.eye(120, dtype=bool)
    margins = []
    for rate in (0.0, 3e-3):
        h = np.where(relaxed(data, learning_rate=rate, epochs=6, steps_per_epoch=20, batch_size=40, k1=20) >= 0, 1, -1)
        cosine = h @ h.T / BITS
        margins.append(cosine[same].mean() - cosine[group[:, None] != group[None, :]].mean())
    assert margins[1] > margins[0] + 0.3


def test_a_stopped_run_goes_on_with_the_pairs_it_had_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimization, "CHECKPOINT_SECONDS", 0.0)
    data = photos(40, 32)
    plan = {"fit_on": "both", "epochs": 5, "rounds": 2, "gamma": 0.0}
    whole = relaxed(data, **plan)

    class Stopped(Exception):
        pass

    def begin(self, epoch, bank, run):
        if epoch == 4:
            raise Stopped
        usual_begin(self, epoch, bank, run)

    usual_begin = DSAH.begin_epoch
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(DSAH, "begin_epoch", begin)
        fitted(data, checkpoint=tmp_path, **plan)
    np.testing.assert_array_equal(relaxed(data, checkpoint=tmp_path, **plan), whole)
    assert not np.allclose(whole, relaxed(data, **plan, discovery=False), atol=1e-6), "the pairs found matter here"


@pytest.mark.parametrize("n", range(1, 8))
def test_too_few_photos_are_refused_with_how_many_it_takes(n: int) -> None:
    with pytest.raises(UsageError, match=rf"needs at least 8 photos, found {n}$"):
        fitted(photos(0, n))
    if n > 1:
        with pytest.raises(UsageError, match=rf"at least 8 photos, found {n}$"):
            fitted(photos(1, n - 1), fit_on="both")


def test_eight_photos_are_enough_wherever_they_lie() -> None:
    for data in (photos(0, 8), photos(8, 0), photos(1, 7), photos(7, 1)):
        assert np.isfinite(relaxed(data, batch_size=2, fit_on="both")).all()
    assert np.isfinite(relaxed(photos(1, 8), batch_size=2)).all()


def test_a_domain_that_is_not_there_is_not_learned_from() -> None:
    with pytest.raises(UsageError, match="source photos: there are none"):
        fitted(photos(0, 20), fit_on="source")
    with pytest.raises(UsageError, match="at least 8 photos, found 7"):
        fitted(photos(7, 20), fit_on="source")


@pytest.mark.parametrize("features", [np.ones((20, DIM), np.float32), np.zeros((20, DIM), np.float32)])
def test_photos_that_are_all_alike_train_to_finite_codes(features: np.ndarray) -> None:
    head, log = fitted(TrainingData(None, TargetData(features), 0), gamma=0.0)
    codes = head(torch.from_numpy(features)).detach().numpy()
    assert np.isfinite(codes).all() and (codes == codes[0]).all()
    assert [r["bit_variance"] for event, r in log if event == "round"] == [0, 0, 0]


def test_copies_and_outliers_among_the_photos_do_no_harm() -> None:
    x, _ = cloud(2, 40)
    x[:15] = x[0]
    x[20] = -x.mean(0) * 50
    assert np.isfinite(relaxed(TrainingData(None, TargetData(x), 0), batch_size=40)).all()


def test_neighborhoods_larger_than_the_collection_are_cut_to_it() -> None:
    log = rounds(photos(0, 12), k1=500, k2=500, k_add=500)
    assert log[0]["pairs"] == 12 * 11 // 2
    assert all(r["added"] == 0 for r in log)


def test_a_fit_holds_no_matrix_of_all_photos_by_all_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 2000
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", n * n // 10)
    monkeypatch.setattr(nearest, "BLOCK_BYTES", n * n // 10)
    data = TrainingData(None, TargetData(cloud(0, n)[0]), 0)
    tracemalloc.start()
    try:
        log = rounds(data, k1=10, gamma=0.0, rounds=2, epochs=2, steps_per_epoch=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert log[1]["added"] > 0
    assert peak < 0.75 * n * n, "not even one byte for each of the n x n pairs"


LARGE = """
import resource
import numpy as np
from hashcli.data import TargetData, TrainingData
from hashcli.method import Run, Task
from hashcli_plugins.dsah import DSAH
import torch
x = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
made = DSAH(Task(32, 64, 0, 0), DSAH.Settings(epochs=2, rounds=2, steps_per_epoch=3, hidden=32, k1=100))
torch.nn.Linear(64, 64)(torch.ones(8, 64)).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run = Run(0)
made.fit(TrainingData(None, TargetData(x), 0), run)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, run.progress.events[-2][1]["added"])
"""


@pytest.mark.slow
def test_twenty_thousand_photos_fit_in_far_less_than_all_their_pairs() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    grown, added = map(int, done.stdout.split())
    assert added > 0
    unit = 1 if sys.platform == "darwin" else 1024
    assert grown * unit < 4 * 20_000**2 / 2, "half of one float32 matrix of all pairs"
