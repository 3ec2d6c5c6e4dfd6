"""nearest(): the order of results, who is among them, and what a query does not have to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hashcli import indexing, ties
from hashcli.encoder import Encoder
from hashcli.errors import NoLibraryError
from hashcli.gallery import Gallery, Record
from hashcli.library import Library
from hashcli.photos import decode
from hashcli.progress import Silent
from hashcli.roots import Roots
from hashcli.search import Match, QueryResult, nearest
from tests import tiny


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr("hashcli.identity.RACY_NS", 0)
    return tiny.decode_here(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for n in range(12):
        tiny.noise(tmp_path / "photos" / f"{n:02d}.png", n)
    return tmp_path / "photos"


def library_of(folder: Path, tmp_path: Path, constant: bool = False) -> Library:
    library = Library.create(tmp_path / "library")
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(folder, "tgt")], constant=constant)
    return library


def names(result: QueryResult) -> list[str]:
    return [os.fsdecode(os.path.basename(match.path)) for match in result.matches]


def features(*paths: Path) -> np.ndarray:
    """The backbone's features, computed from the quarters directly."""
    pixels = np.stack([decode(path.read_bytes(), tiny.SIZE, "squash", 1 << 20) for path in paths])
    means = pixels.reshape(-1, 2, 4, 2, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(len(paths), -1)
    return ((means - 127.5) / 128).astype(np.float16).astype(np.float64)


def test_results_are_ordered_by_distance_then_cosine_then_path(photos, tmp_path):
    shutil.copy(photos / "07.png", photos / "a-copy-of-07.png")
    shutil.copy(photos / "07.png", photos / "z-copy-of-07.png")
    library = library_of(photos, tmp_path)
    query = tiny.noise(tmp_path / "query.png", 99)
    (result,) = nearest(library, [bytes(query)], top=None, radius=tiny.N_BITS)

    everything = sorted(photos.iterdir())
    encoder = Encoder(library.require().hasher)
    f = features(query, *everything)
    codes = np.unpackbits(encoder.codes(f.astype(np.float16), np.ones(len(f), np.int64)), axis=1)
    expected = []
    for i, path in enumerate(everything, 1):
        distance = int((codes[0] != codes[i]).sum())
        cosine = round(float(f[0] @ f[i] / np.sqrt((f[0] @ f[0]) * (f[i] @ f[i]))), 4)
        expected.append((distance, -cosine, bytes(path)))
    expected.sort()
    assert [(m.distance, round(-(m.cosine or 0), 4), m.path) for m in result.matches] == expected
    assert [m.rank for m in result.matches] == list(range(1, 15))
    assert all(m.query == bytes(query) and m.similarity == m.cosine for m in result.matches)


def test_ties_go_to_the_look_alikes_even_when_all_codes_are_equal(tmp_path):
    for n, gray in enumerate([250, 10, 130, 60, 200]):
        tiny.photo(tmp_path / "photos" / f"{n}.png", gray, 40, 40, 40)
    library = library_of(tmp_path / "photos", tmp_path, constant=True)
    query = tiny.photo(tmp_path / "query.png", 190, 40, 40, 40)
    (result,) = nearest(library, [bytes(query)])
    assert names(result)[0] == "4.png" and {m.distance for m in result.matches} == {0}
    cosines = [m.cosine for m in result.matches]
    assert cosines == sorted(cosines, key=lambda c: -(c or 0))
    (plain,) = nearest(library, [bytes(query)], rerank=0)
    assert names(plain) == [f"{n}.png" for n in range(5)], "without cosines by path"
    assert all(m.cosine is None and m.similarity == 1.0 for m in plain.matches)
    (partly,) = nearest(library, [bytes(query)], rerank=2)
    assert names(partly) == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert [m.cosine is None for m in partly.matches] == [False, False, True, True, True]


@pytest.mark.parametrize("entries_per_path", [1 << 20, 1 / 64], ids=["by-their-paths", "by-the-index-of-paths"])
def test_which_of_a_cut_tie_are_shown_does_not_depend_on_the_order_of_indexing(tmp_path, monkeypatch, entries_per_path):
    monkeypatch.setattr("hashcli.ties.PATHS_AT_ONCE", 5)
    monkeypatch.setattr("hashcli.ties.ENTRIES_PER_PATH", entries_per_path)
    folder = tmp_path / "photos"
    exported = tiny.backbone(tmp_path / "backbone")
    tiny.photo(folder / "m.png", 5)
    tiny.photo(folder / "z/n.png", 6)
    library = Library.create(tmp_path / "library")
    tiny.adapt(library, exported, [(folder, "tgt"), (folder / "z", "tgt")], constant=True)
    for n in range(20, 0, -1):  # slots run against the paths
        tiny.noise(folder / f"{n:02d}.png", n)
        indexing.index(library, progress=Silent())
    tiny.noise(folder / "z/00.png", 50)
    indexing.index(library, progress=Silent())
    query = bytes(tiny.noise(tmp_path / "query.png", 99))
    everything = [*(f"{n:02d}.png" for n in range(1, 21)), "m.png", "00.png", "n.png"]
    for top in (1, 4, 7, 18, 19, 20, 30):
        results = nearest(library, [query, query], top=top, rerank=0)
        assert [names(result) for result in results] == [everything[:top]] * 2
    (partly,) = nearest(library, [query], top=5, rerank=5)
    assert sorted(names(partly)) == everything[:5], "compared closely are the first by path, too"
    (near,) = nearest(library, [query], top=4, radius=0, rerank=0)
    assert names(near) == everything[:4]


def test_what_is_farther_than_the_last_place_is_left_out_and_its_tie_not_settled(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (120, 2), np.uint8)
    with Gallery.create(tmp_path / "gallery", 16, "0" * 64) as gallery:
        root = gallery.add_root(b"/photos", "tgt")
        gallery.append(
            [Record(root, b"%d" % n, 1, 1, rng.bytes(16), None, "tgt") for n in reversed(range(120))], packed
        )
        roots = Roots(gallery)
        settled = []
        first_by_path = ties._first_by_path
        monkeypatch.setattr(ties, "_first_by_path", lambda *given: settled.append(1) or first_by_path(*given))
        for places in (1, 5, 40, 99, 100):
            ((slots, distances),) = ties.nearest_by_path(gallery, roots, packed[:1], 100, None)
            settled.clear()
            ((nearer, how_far),) = ties.nearest_by_path(gallery, roots, packed[:1], 100, None, places)
            assert bool(settled) == (distances[places - 1] == distances[-1])
            n = int((distances <= distances[places - 1]).sum())
            np.testing.assert_array_equal(how_far, distances[:n])
            assert set(nearer.tolist()) == set(slots[:n].tolist())


def test_top_and_radius_bound_the_results(photos, tmp_path):
    library = library_of(photos, tmp_path)
    query = bytes(tiny.noise(tmp_path / "query.png", 99))
    (everything,) = nearest(library, [query], top=None, radius=tiny.N_BITS)
    (three,) = nearest(library, [query], top=3)
    assert three.matches == everything.matches[:3]
    radius = everything.matches[4].distance
    (near,) = nearest(library, [query], top=None, radius=radius)
    assert near.matches == [m for m in everything.matches if m.distance <= radius]
    (both,) = nearest(library, [query], top=2, radius=radius)
    assert both.matches == everything.matches[:2]
    with pytest.raises(ValueError, match="top and radius"):
        nearest(library, [query], top=None)


def test_a_photo_is_left_out_of_its_own_results_but_its_copies_are_not(photos, tmp_path):
    shutil.copy(photos / "03.png", photos / "copy.png")
    library = library_of(photos, tmp_path)
    (result,) = nearest(library, [bytes(photos / "03.png")], top=1)
    assert names(result) == ["copy.png"] and result.matches[0].distance == 0
    (with_self,) = nearest(library, [bytes(photos / "03.png")], top=2, include_self=True)
    assert names(with_self) == ["03.png", "copy.png"]
    (all_others,) = nearest(library, [bytes(photos / "03.png")], top=12)
    assert len(all_others.matches) == 12 and "03.png" not in names(all_others)
    outside = shutil.copy(photos / "03.png", tmp_path / "outside.png")
    (found,) = nearest(library, [bytes(outside)], top=2)
    assert names(found) == ["03.png", "copy.png"], "a copy elsewhere is another photo"


def test_a_photo_is_itself_by_any_name(photos, tmp_path, monkeypatch):
    library = library_of(photos, tmp_path)
    (tmp_path / "link.png").symlink_to(photos / "03.png")
    (tmp_path / "folder").symlink_to(photos)
    monkeypatch.chdir(photos)
    for path in (b"03.png", b"../photos/./03.png", bytes(tmp_path / "link.png"), bytes(tmp_path / "folder/03.png")):
        (result,) = nearest(library, [path])
        assert "03.png" not in names(result) and len(result.matches) == 10 and result.path == path


def test_indexed_photos_are_not_opened_and_get_the_answer_of_fresh_ones(photos, tmp_path, opened):
    library = library_of(photos, tmp_path)
    paths = [bytes(path) for path in sorted(photos.iterdir())]
    del opened[:]
    stored = nearest(library, paths)
    assert opened == []
    shutil.rmtree(library.folder / "identity")
    fresh = nearest(library, paths)
    assert opened == paths and fresh == stored


def test_a_photo_that_changed_since_it_was_indexed_is_read(photos, tmp_path, opened):
    library = library_of(photos, tmp_path)
    tiny.photo(photos / "03.png", 10, 20, 200, 30)
    same = tiny.photo(tmp_path / "same.png", 10, 20, 200, 30)
    del opened[:]
    (changed,), (expected,) = nearest(library, [bytes(photos / "03.png")]), nearest(library, [bytes(same)], top=11)
    assert opened == [bytes(photos / "03.png"), bytes(same)]
    kept = [(m.path, m.distance) for m in expected.matches if m.path != bytes(photos / "03.png")]
    assert [(m.path, m.distance) for m in changed.matches] == kept[:10]


def test_the_domain_is_that_of_the_record_or_the_root_or_the_option(tmp_path):
    for n in range(6):
        tiny.noise(tmp_path / "src/mug" / f"{n}.png", n)
        tiny.noise(tmp_path / "tgt" / f"{n}.png", 50 + n)
    library = Library.create(tmp_path / "library")
    tiny.adapt(library, tiny.backbone(tmp_path / "b"), [(tmp_path / "src", "src"), (tmp_path / "tgt", "tgt")])

    def distances(path: Path, **options: object) -> list[int]:
        (result,) = nearest(library, [bytes(path)], top=20, rerank=0, include_self=True, **options)  # type: ignore[arg-type]
        return [m.distance for m in result.matches]

    inside = tmp_path / "src/mug/1.png"
    outside = Path(shutil.copy(inside, tmp_path / "outside.png"))
    later = Path(shutil.copy(inside, tmp_path / "src/later.png"))
    as_source, as_target = distances(outside, domain="src"), distances(outside, domain="tgt")
    assert as_source != as_target
    assert distances(inside) == as_source and distances(inside, domain="tgt") == as_target
    assert distances(later) == as_source, "not indexed, but under a source root"
    assert distances(outside) == as_target
    (result,) = nearest(library, [bytes(inside)], top=20)
    assert {(m.label, m.domain) for m in result.matches} == {("mug", "src"), (None, "tgt")}


def test_unreadable_queries_say_why_and_do_not_stop_the_others(photos, tmp_path):
    library = library_of(photos, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no photo")
    paths = [tmp_path / "absent.png", photos / "01.png", tmp_path / "broken.png", photos, tmp_path / "b2.png"]
    Image.new("RGB", (9, 9), "red").save(tmp_path / "b2.png")
    results = nearest(library, [bytes(path) for path in paths])
    assert [result.path for result in results] == [bytes(path) for path in paths]
    assert [result.error is None for result in results] == [False, True, False, False, True]
    assert [len(result.matches) for result in results] == [0, 10, 0, 0, 10]
    assert nearest(library, []) == []
    (only,) = nearest(library, [bytes(tmp_path / "absent.png")])
    assert only.error and not only.matches


def test_photos_whose_features_are_gone_are_found_behind_those_that_tie_with_them(photos, tmp_path):
    library = library_of(photos, tmp_path, constant=True)
    query = bytes(tiny.noise(tmp_path / "query.png", 99))
    spec = library.require().hasher.spec
    (before,) = nearest(library, [query], top=12)
    best = before.matches[0].path
    with library.features(spec) as cache, library.identity() as identity:
        from hashcli.photos import stat_photo

        cache.forget(cache.rows([d for d in identity.get([stat_photo(best, bytes(photos))]) if d]).tolist())
    (after,) = nearest(library, [query], top=12)
    assert [m.path for m in after.matches] == [m.path for m in before.matches[1:]] + [best]
    shutil.rmtree(library.folder / "features")
    (bare,) = nearest(library, [query], top=12)
    assert sorted(names(bare)) == names(bare) and len(bare.matches) == 12
    (own,) = nearest(library, [best], top=12)
    assert len(own.matches) == 11


def test_damaged_features_cost_the_order_and_not_the_search(photos, tmp_path):
    library = library_of(photos, tmp_path)
    query = bytes(tiny.noise(tmp_path / "query.png", 99))
    (before,) = nearest(library, [query], top=12)
    (shard,) = (library.folder / "features").rglob("shard-*.bin")
    data = bytearray(shard.read_bytes())
    data[30] ^= 1
    shard.write_bytes(data)
    said: list[str] = []

    class Listening(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    (after,) = nearest(library, [query], top=12, progress=Listening())
    assert {m.path for m in after.matches} == {m.path for m in before.matches}
    assert sum(m.cosine is None for m in after.matches) == 1 and "damaged" in said[0]


def test_an_empty_library_says_what_to_do(tmp_path, photos):
    with pytest.raises(NoLibraryError):
        nearest(Library.create(tmp_path / "library"), [bytes(photos / "01.png")])


def test_removed_and_pruned_photos_are_not_found(photos, tmp_path):
    library = library_of(photos, tmp_path)
    (photos / "05.png").unlink()
    indexing.index(library, prune=True, progress=Silent())
    (result,) = nearest(library, [bytes(photos / "01.png")], top=20)
    assert len(result.matches) == 10 and "05.png" not in names(result)


def test_a_library_that_may_only_be_read_is_searched(photos, tmp_path):
    library = library_of(photos, tmp_path)
    expected = nearest(library, [bytes(photos / "01.png")])
    before = {path: path.stat().st_mtime_ns for path in library.folder.rglob("*") if path.name != "lock.mdb"}
    assert nearest(Library.open(library.folder), [bytes(photos / "01.png")]) == expected
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a search changes nothing"


def test_a_query_of_an_indexed_photo_imports_only_what_it_needs(photos, tmp_path):
    library = library_of(photos, tmp_path)
    program = """
        import sys
        from hashcli.cli import main
        code = main()
        heavy = {"torch", "onnxruntime", "onnx", "PIL", "rich", "scipy", "sklearn"}
        slow = {"numpy.ma", "concurrent.futures", "html", "logging", "hashcli.cli_eval"}
        ours = {"hashcli.encoder", "hashcli.extraction", "hashcli.metrics", "hashcli.result_page", "hashcli.worker"}
        print(code, sorted((heavy | slow | ours) & set(sys.modules)))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), "query", photos / "01.png", "-L", library.folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *found, said = done.stdout.splitlines()
    assert (len(found), said) == (10, "0 []")


def test_matches_are_values(photos, tmp_path):
    library = library_of(photos, tmp_path)
    (result,) = nearest(library, [bytes(photos / "01.png")], top=1)
    (match,) = result.matches
    assert isinstance(match, Match) and os.path.isabs(match.path)
    assert match.cosine is not None and -1 <= match.cosine <= 1
