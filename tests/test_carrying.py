"""Filling a generation: given photos, photos carried over, and photos that cannot be."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from hashcli import carrying, indexing
from hashcli.encoder import Encoder
from hashcli.errors import DamagedError
from hashcli.library import Library
from hashcli.photos import digest
from hashcli.progress import Silent, Task
from hashcli.records import DOMAINS
from tests import tiny


class Listening(tiny.Heard):
    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[str] = []

    def task(self, what: str, total: int | None = None) -> AbstractContextManager[Task]:
        self.tasks.append(what)
        return super().task(what, total)


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    return tiny.decode_here(monkeypatch)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.create(tmp_path / "library")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """a (two classes), b and c (flat): three photos each, all different."""
    for n in range(3):
        tiny.noise(tmp_path / "a" / ("mug", "shoe")[n % 2] / f"{n}.png", n)
        tiny.noise(tmp_path / "b" / f"{n}.png", 10 + n)
        tiny.noise(tmp_path / "c" / f"{n}.png", 20 + n)
    return tmp_path / "a", tmp_path / "b", tmp_path / "c"


def check_codes(library: Library) -> None:
    """Every code of the current gallery is what its hasher makes of the photo's cached feature in its domain."""
    generation = library.require()
    encoder = Encoder(generation.hasher)
    with generation.gallery() as gallery, library.features(generation.hasher.spec) as cache:
        slots, records = zip(*gallery.scan(), strict=True)
        features = cache.take(cache.rows([record.digest for record in records]))
        domains = np.array([DOMAINS.index(record.domain) for record in records])
        np.testing.assert_array_equal(gallery.codes(slots), encoder.codes(features, domains))


def test_adapt_index_adapt_keeps_every_photo_findable(library, folders, tmp_path):
    a, b, c = folders
    first = tiny.backbone(tmp_path / "first")
    tiny.adapt(library, first, [(a, "src")])
    indexing.index(library, [b], workers=1, progress=Silent())
    generation, filled = tiny.adapt(library, first, [(c, "tgt")], seed=1)
    assert (filled.n_given, filled.n_carried, filled.lost) == (3, 6, [])
    assert tiny.held(generation) == {
        f"{a}/mug/0.png": ("mug", "src"),
        f"{a}/shoe/1.png": ("shoe", "src"),
        f"{a}/mug/2.png": ("mug", "src"),
        **{f"{b}/{n}.png": (None, "tgt") for n in range(3)},
        **{f"{c}/{n}.png": (None, "tgt") for n in range(3)},
    }
    check_codes(library)
    with generation.gallery() as gallery:
        assert {root.path: root.domain for root in gallery.roots()} == {
            bytes(a): "src",
            bytes(b): "tgt",
            bytes(c): "tgt",
        }


def test_another_backbone_reads_the_old_photos_again_and_says_so_first(library, folders, tmp_path):
    a, b, _ = folders
    tiny.adapt(library, tiny.backbone(tmp_path / "first"), [(a, "src")])
    progress = Listening()
    generation, filled = tiny.adapt(library, tiny.backbone(tmp_path / "second", 0.5), [(b, "tgt")], progress=progress)
    assert (filled.n_given, filled.n_carried, filled.lost) == (3, 3, [])
    assert len(progress.said) == 1 and progress.said[0].startswith("3 photos")
    assert generation.hasher.spec.name == "tiny0.5"
    check_codes(library)


def test_photos_with_cached_features_are_carried_without_being_read(library, folders, tmp_path):
    a, b, _ = folders
    exported = tiny.backbone(tmp_path / "backbone")
    tiny.adapt(library, exported, [(a, "src")])
    (a / "mug/0.png").unlink()
    progress = Listening()
    generation, filled = tiny.adapt(library, exported, [(b, "tgt")], progress=progress)
    assert filled.n_carried == 3 and progress.said == []
    assert progress.tasks == ["giving photos their codes", "carrying photos over"]
    assert f"{a}/mug/0.png" in tiny.held(generation), "gone from the disk, but not from the library"


def test_what_can_neither_be_recalled_nor_read_is_named(library, folders, tmp_path):
    a, b, _ = folders
    tiny.adapt(library, tiny.backbone(tmp_path / "first"), [(a, "src")])
    (a / "mug/0.png").unlink()
    (a / "shoe/1.png").write_bytes(b"no photo any more")
    generation, filled = tiny.adapt(library, tiny.backbone(tmp_path / "second", 0.5), [(b, "tgt")])
    assert filled.n_carried == 1
    assert {failure.path for failure in filled.lost} == {bytes(a / "mug/0.png"), bytes(a / "shoe/1.png")}
    assert all(failure.reason for failure in filled.lost)
    assert set(tiny.held(generation)) == {f"{a}/mug/2.png", *(f"{b}/{n}.png" for n in range(3))}


def test_a_photo_that_changed_since_is_carried_as_it_is_now(library, folders, tmp_path):
    a, b, _ = folders
    tiny.adapt(library, tiny.backbone(tmp_path / "first"), [(a, "src")])
    changed = tiny.noise(a / "mug/0.png", 99)
    generation, filled = tiny.adapt(library, tiny.backbone(tmp_path / "second", 0.5), [(b, "tgt")])
    assert filled.n_carried == 3 and not filled.lost
    with generation.gallery() as gallery:
        assert len(gallery.slots_of_digest(digest(changed.read_bytes()))) == 1
    check_codes(library)


def test_given_photos_win_over_old_records_also_through_a_folder_inside_an_old_one(library, tmp_path):
    for n in range(4):
        tiny.noise(tmp_path / "all" / ("mug" if n % 2 else "shoe") / f"{n}.png", n)
    tiny.noise(tmp_path / "all" / "beside.png", 9)
    exported = tiny.backbone(tmp_path / "backbone")
    tiny.adapt(library, exported, [(tmp_path / "all", "tgt")])
    (generation, filled) = tiny.adapt(library, exported, [(tmp_path / "all/mug", "src")], seed=1)
    assert (filled.n_given, filled.n_carried) == (2, 3)
    held = tiny.held(generation)
    assert len(held) == 5
    assert {path for path, (_, domain) in held.items() if domain == "src"} == {
        f"{tmp_path}/all/mug/1.png",
        f"{tmp_path}/all/mug/3.png",
    }
    check_codes(library)


def test_a_root_remembers_that_a_table_gave_its_labels_also_when_it_is_carried(library, folders, tmp_path):
    a, b, c = folders
    exported = tiny.backbone(tmp_path / "backbone")
    tiny.adapt(library, exported, [(a, "src")])
    tiny.adapt(library, exported, [(b, "tgt")], seed=1)
    tiny.adapt(library, exported, [(a / "mug", "src")], seed=2)  # tiny labels these by file name, as a table may
    generation, _ = tiny.adapt(library, exported, [(c, "tgt")], seed=3)
    with generation.gallery() as gallery:
        assert {root.path: root.by_folder for root in gallery.roots()} == {
            bytes(a): True,
            bytes(b): True,
            bytes(c): True,
            bytes(a / "mug"): False,
        }
    tiny.noise(a / "mug/in/new.png", 80)
    tiny.noise(a / "shoe/new.png", 81)
    indexing.index(library, workers=1, progress=Silent())
    held = tiny.held(library.require())
    assert held[f"{a}/mug/in/new.png"] == (None, "src") and held[f"{a}/shoe/new.png"] == ("shoe", "src")


def test_a_photo_given_twice_counts_once_and_blocks_do_not_matter(library, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(carrying, "BLOCK", 2)
    monkeypatch.setattr(carrying.blocks, "__defaults__", (2,))
    a, b, _ = folders
    exported = tiny.backbone(tmp_path / "backbone")
    tiny.adapt(library, exported, [(a, "src")])
    generation, filled = tiny.adapt(library, exported, [(b, "tgt"), (b, "tgt")], seed=1)
    assert (filled.n_given, filled.n_carried) == (3, 3)
    assert len(tiny.held(generation)) == 6
    check_codes(library)


def test_filling_goes_on_where_it_was_interrupted(library, folders, tmp_path):
    a, b, c = folders
    exported = tiny.backbone(tmp_path / "backbone")
    tiny.adapt(library, exported, [(a, "src"), (b, "tgt")])
    staged, _ = tiny.adapt(library, exported, [(c, "tgt")], seed=1, staged=True)
    old = library.require()
    with library.writing():

        def fill() -> carrying.Filled:
            return carrying.fill(library, staged.folder, exported, (), roots=(), old=old, workers=1, progress=Silent())

        assert fill().n_carried == 6
        with staged.gallery(write=True) as gallery:
            gallery.remove([gallery.count() - 1])  # as if the run had ended just before
        assert fill().n_carried == 1
        assert fill().n_carried == 0
    assert len(tiny.held(staged)) == 9


def test_the_inventory_counts_generations_roots_and_sizes(library, folders, tmp_path):
    a, b, _ = folders
    exported = tiny.backbone(tmp_path / "backbone")
    tiny.adapt(library, exported, [(a, "src")])
    tiny.adapt(library, exported, [(b, "tgt")], seed=1)
    with library.writing(), library.new_generation() as building:  # a staged hasher without a gallery
        tiny.write_hasher(building.hasher_folder, exported, seed=2)
        library.publish(building, "staged")
    b.rename(tmp_path / "away")
    info = library.info()
    assert [(g.photos, g.current, g.state, g.seed) for g in info.generations] == [
        (3, False, "complete", 0),
        (6, True, "complete", 1),
        (0, False, "staged", 2),
    ]
    assert {g.method for g in info.generations} == {"tiny"} and {g.n_bits for g in info.generations} == {tiny.N_BITS}
    assert [root.path for root in info.missing] == [bytes(b)] and len(info.roots) == 2
    assert 0 < info.feature_size < info.size and info.size >= sum(g.size for g in info.generations)


def test_a_gallery_of_another_hasher_is_refused(library, folders, tmp_path):
    a, _, _ = folders
    generation, _ = tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(a, "src")])
    tiny.write_hasher(generation.folder / "hasher", tiny.backbone(tmp_path / "backbone"), seed=5)
    with pytest.raises(DamagedError, match="another hasher"):
        library.require().gallery()
