"""From a fitted job to a generation: what is held out, what is refused, and how a refusal is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from hashcli import backbones, indexing, publishing, training
from hashcli.errors import NoLibraryError, RefusedError
from hashcli.health import Health
from hashcli.helped import Helped
from hashcli.jobs import TrainingJob
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.training import TrainOptions
from tests import tiny

HEALTH = Health(bit_balance=1, distinct_codes=1, constant_bits=0, commonest_code=0)
OPTIONS = TrainOptions(method="lsh", n_bits=16, device="cpu", workers=1)


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """studio/ with 20 labeled photos of each of 2 classes, phone/ with 6 without labels."""
    exported = tiny.backbone(tmp_path / "backbone")
    monkeypatch.setattr(backbones, "exported", lambda *_, **__: exported)
    tiny.decode_here(monkeypatch)
    for i in range(40):
        tiny.noise(tmp_path / "studio" / "ab"[i % 2] / f"{i}.png", i)
    for i in range(6):
        tiny.noise(tmp_path / "phone" / f"{i}.png", 100 + i)
    return tmp_path


def adapt(world: Path, progress: Silent | None = None, **changes) -> training.TrainReport:
    options = TrainOptions(**(vars(OPTIONS) | changes))
    library = Library.at(world / "library")
    return training.adapt(library, world / "studio", world / "phone", options, progress or tiny.Heard())


@pytest.fixture
def collapsed(monkeypatch) -> None:
    monkeypatch.setattr(publishing, "judge", lambda *_: Helped(HEALTH, collapsed=["all is one"]))


def no_training(monkeypatch) -> None:
    monkeypatch.setattr(TrainingJob, "fit", None)


def test_held_out_photos_are_indexed_measured_and_not_learned_from(world):
    said = tiny.Heard()

    report = adapt(world, said)

    assert (report.n_source, report.n_held_out, report.n_indexed) == (36, 4, 46)
    hasher = Library.open(world / "library").require().hasher
    assert len(hasher.seen) == 36 + 6
    assert hasher.training["held_out"]["photos"] == 4
    assert 0 < hasher.training["helped"]["after"]["held_out_map"] <= 1
    assert any(line.startswith("held-out source photos find their class") for line in said.said)


def test_without_holding_out_every_labeled_photo_is_learned_from(world):
    report = adapt(world, hold_out=False)
    assert (report.n_source, report.n_held_out) == (40, 0)
    assert Library.open(world / "library").require().hasher.training["held_out"]["photos"] == 0


def test_a_collapsed_hasher_stays_aside_and_index_passes_it_by(world, collapsed):
    with pytest.raises(RefusedError, match="all is one") as refused:
        adapt(world)

    assert "--force" in refused.value.hint
    library = Library.open(world / "library")
    assert library.current() is None
    assert library.staged().refused
    with pytest.raises(NoLibraryError) as nothing:
        indexing.index(library, progress=Silent())
    assert "--force" in nothing.value.hint


def test_the_hasher_in_use_stays_in_use_when_a_new_one_is_refused(world, collapsed):
    adapt(world, force=True)
    before = Library.open(world / "library").require().name

    with pytest.raises(RefusedError):
        adapt(world, seed=1)

    library = Library.open(world / "library")
    assert library.require().name == before
    said = tiny.Heard()
    indexing.index(library, progress=said)
    assert library.require().name == before
    assert any("was refused and stays aside" in line for line in said.said)


def test_the_same_job_is_refused_again_and_forced_without_training_again(world, monkeypatch, collapsed):
    with pytest.raises(RefusedError):
        adapt(world)
    staged = Library.open(world / "library").staged().name
    no_training(monkeypatch)

    with pytest.raises(RefusedError, match=f"all is one.*{staged}"):
        adapt(world)
    report = adapt(world, force=True)

    current = Library.open(world / "library").require()
    assert (report.generation, report.staged, report.n_indexed) == (staged, False, 46)
    assert (current.name, current.refused, current.state) == (staged, False, "complete")


def test_a_photo_that_moved_after_the_refusal_is_taken_over_in_its_new_place_alone(world, monkeypatch, collapsed):
    adapt(world, force=True)
    with pytest.raises(RefusedError):
        adapt(world, seed=1)
    (world / "phone/5.png").rename(world / "phone/5-moved.png")
    library = Library.open(world / "library")
    assert indexing.index(library, workers=1, progress=Silent()).moved == 1
    no_training(monkeypatch)

    assert adapt(world, seed=1, force=True).n_indexed == 46
    held = tiny.held(library.require())
    assert len(held) == 46 and f"{world}/phone/5-moved.png" in held


def test_what_is_put_aside_on_purpose_is_refused_as_well_unless_forced(world, collapsed):
    with pytest.raises(RefusedError):
        adapt(world, no_index=True)
    assert adapt(world, no_index=True, force=True).staged
    assert not Library.open(world / "library").staged().refused
