"""Match probabilities: what isotonic regression promises, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hashcli import calibration, cli, codes
from hashcli.calibration import Calibration
from hashcli.hasher import Hasher
from hashcli.library import Library
from hashcli.search import nearest
from tests import tiny

N_BITS = 16


def clustered(rng: np.random.Generator, n: int, flips: float = 0.12) -> tuple[np.ndarray, np.ndarray]:
    """Packed codes (n, 2) around four hash centers, and the class numbers (n,)."""
    centers = np.random.default_rng(0).integers(0, 2, (4, N_BITS))
    labels = rng.integers(0, 4, n)
    bits = centers[labels] ^ (rng.random((n, N_BITS)) < flips)
    return codes.pack(bits.astype(np.uint8)), labels


def test_probabilities_never_rise_with_the_distance(rng):
    held, others = clustered(rng, 40), clustered(rng, 200)

    fitted = calibration.fit(*held, *others)

    assert fitted is not None
    assert len(fitted.probability) == N_BITS + 1
    assert all(near >= far for near, far in itertools.pairwise(fitted.probability))
    assert fitted.probability[0] > 0.8 > 0.2 > fitted.probability[-1]
    assert (fitted.n_photos, fitted.n_pairs) == (40, 8000)


def test_a_probability_is_the_share_of_matches_among_new_pairs(rng):
    fitted = calibration.fit(*clustered(rng, 60), *clustered(rng, 400))
    (queries, labels), (gallery, gallery_labels) = clustered(rng, 60), clustered(rng, 400)

    distances = codes.distances(queries, gallery)
    matching = labels[:, None] == gallery_labels

    for distance in range(2, 11):
        here = distances == distance
        if here.sum() > 300:
            assert matching[here].mean() == pytest.approx(fitted.probability[distance], abs=0.08)


def test_the_regression_is_the_best_falling_fit(rng):
    """Against every way of pooling neighboring levels, by loop."""
    held, others = (codes.pack(rng.integers(0, 2, (20, 8)).astype(np.uint8)) for _ in range(2))
    held_labels, other_labels = rng.integers(0, 2, (2, 20))
    fitted = calibration.fit(held, held_labels, others, other_labels)
    assert fitted is not None
    by_level: dict[int, list[int]] = {}
    for (code, label), (other, other_label) in itertools.product(
        zip(held, held_labels, strict=True), zip(others, other_labels, strict=True)
    ):
        by_level.setdefault(int(codes.distances(code[None], other[None])[0, 0]), []).append(int(label == other_label))
    levels = sorted(by_level)

    def loss(values: dict[int, float]) -> float:
        return sum((match - values[level]) ** 2 for level in levels for match in by_level[level])

    best = np.inf
    for cuts in itertools.product([False, True], repeat=len(levels) - 1):
        groups = [[levels[0]]]
        for level, cut in zip(levels[1:], cuts, strict=True):
            groups.append([level]) if cut else groups[-1].append(level)
        means = [np.mean([match for level in group for match in by_level[level]]) for group in groups]
        if all(a >= b for a, b in itertools.pairwise(means)):
            best = min(best, loss({d: m for g, m in zip(groups, means, strict=True) for d in g}))
    share = np.mean([match for level in levels for match in by_level[level]])
    found = {level: (21 * p - share) / 20 for level, p in enumerate(fitted.probability)}  # without the photo more
    assert loss(found) == pytest.approx(best, abs=1e-3)


def test_few_photos_that_were_all_found_right_are_no_certainty():
    """Two classes whose codes are as far apart as codes can be."""
    held, others = (np.repeat(np.uint8([[0, 0], [255, 255]]), n, 0) for n in (5, 50))
    labels = [np.repeat([0, 1], n) for n in (5, 50)]

    fitted = calibration.fit(held, labels[0], others, labels[1])

    assert fitted is not None
    assert fitted.probability[0] == pytest.approx((10 + 0.5) / 11, abs=1e-4)
    assert fitted.probability[-1] == pytest.approx(0.5 / 11, abs=1e-4)


def test_the_radius_of_a_confidence_is_the_last_distance_that_reaches_it():
    fitted = Calibration((0.9, 0.9, 0.5, 0.1, 0.0), 10, 1000)

    assert [fitted.radius(p) for p in (0.95, 0.9, 0.6, 0.5, 0.0)] == [-1, 1, 1, 2, 4]


@pytest.mark.parametrize("case", ["nobody held out", "few pairs", "one class"])
def test_too_few_pairs_give_no_calibration(rng, case):
    held, others = clustered(rng, 40), clustered(rng, 200)
    n = 0 if case == "nobody held out" else 2 if case == "few pairs" else 40
    if case == "one class":
        held, others = (held[0], held[1] * 0), (others[0], others[1] * 0)

    assert calibration.fit(held[0][:n], held[1][:n], others[0][:100], others[1][:100]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"probability": [1.0] * 3},
        {"probability": "x" * 17},
        {"probability": [0.1] + [0.2] * 16},
        {"probability": [2.0] * 17},
        {"probability": [float("nan")] * 17},
        {"n_photos": None},
    ],
)
def test_a_record_that_is_no_calibration_is_refused(change):
    record = Calibration((0.5,) * 17, 3, 400).record()

    assert Calibration.from_record(record, N_BITS) == Calibration((0.5,) * 17, 3, 400)
    with pytest.raises(ValueError, match=r"calibration|probabilities"):
        Calibration.from_record(record | change, N_BITS)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr("hashcli.identity.RACY_NS", 0)
    tiny.decode_here(monkeypatch)
    for n in range(8):
        tiny.noise(tmp_path / "photos" / f"{n}.png", n)
    library = Library.create(tmp_path / "library")
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(tmp_path / "photos", "tgt")])
    return tmp_path / "photos"


@pytest.fixture
def falling(monkeypatch):
    """Every hasher is calibrated: 1 at distance 0, falling to 0 at 64."""
    fitted = Calibration(tuple(round(1 - d / 64, 4) for d in range(65)), 10, 1000)
    monkeypatch.setattr(Hasher, "calibration", fitted)
    return fitted


def test_min_confidence_keeps_the_matches_that_reach_it(photos, falling):
    library, query = Library.open(photos.parent / "library"), bytes(photos / "0.png")

    (every,) = nearest(library, [query], top=8)
    (sure,) = nearest(library, [query], top=8, min_confidence=0.6)

    assert [m.confidence for m in every.matches] == [falling.probability[m.distance] for m in every.matches]
    assert sure.matches == [m for m in every.matches if m.distance <= 25]
    assert 0 < len(sure.matches) < len(every.matches)


def test_scripts_get_the_column_when_they_ask_and_people_when_there_is_one(photos, falling, capfd):
    command = ["query", str(photos / "0.png"), "-L", str(photos.parent / "library"), "-k", "2", "--header"]
    heads, caveats = [], []
    for more in ([], ["--confidence"], ["--min-confidence", "0"], ["--format", "table"]):
        assert cli.main([*command, *more]) == 0
        shown = capfd.readouterr()
        heads.append(shown.out.splitlines()[0].split()[-1])
        caveats.append("it may be far off" in shown.err)

    assert heads == ["domain", "confidence", "confidence", "confidence"]
    assert caveats == [False, True, True, True]


def test_a_hasher_that_was_not_calibrated_is_said_to_be(photos, capfd):
    command = ["query", str(photos / "0.png"), "-L", str(photos.parent / "library"), "--min-confidence", "0.5"]

    assert cli.main(command) == 4
    assert "gives no match probabilities: when tiny learned, no labeled photos were held out" in capfd.readouterr().err


def test_too_few_held_out_photos_are_not_said_to_be_none(photos, capfd, monkeypatch):
    monkeypatch.setattr(Hasher, "training", {"held_out": {"photos": 2}})
    command = ["query", str(photos / "0.png"), "-L", str(photos.parent / "library"), "--confidence"]

    assert cli.main(command) == 4
    assert "the 2 labeled photos that were held out are too few" in capfd.readouterr().err
