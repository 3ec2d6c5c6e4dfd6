"""index(): what is new, changed, moved or gone, and that nothing is read twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from hashcli import carrying
from hashcli.encoder import Encoder
from hashcli.errors import LockedError, NoLibraryError, UsageError
from hashcli.identity import IdentityCache
from hashcli.indexing import IndexReport, index
from hashcli.library import Library
from hashcli.photos import PhotoFile
from hashcli.progress import Silent
from hashcli.records import DOMAINS
from hashcli.relocating import relocate
from hashcli.walking import WalkOptions
from tests import tiny


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Paths of the photos that were opened; a photo counts as settled as soon as it is written."""
    monkeypatch.setattr("hashcli.identity.RACY_NS", 0)
    return tiny.decode_here(monkeypatch)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library whose hasher learned from src/{mug,shoe}: four photos."""
    for n in range(4):
        tiny.noise(tmp_path / "src" / ("mug" if n % 2 else "shoe") / f"{n}.png", n)
    library = Library.create(tmp_path / "library")
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(tmp_path / "src", "src")])
    return library


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten photos that are not indexed yet."""
    for n in range(10):
        tiny.noise(tmp_path / "photos" / f"{n}.png", 100 + n)
    return tmp_path / "photos"


def run(library: Library, *folders: Path, **options: object) -> IndexReport:
    return index(library, folders, workers=1, progress=Silent(), **options)  # type: ignore[arg-type]


def counts(report: IndexReport) -> dict[str, int]:
    return {name: n for name, n in report.counts().items() if n}


def held(library: Library) -> dict[str, tuple[str | None, str]]:
    return tiny.held(library.require())


def codes(library: Library) -> dict[str, bytes]:
    """The code of every photo by path, each checked against its feature."""
    generation = library.require()
    encoder = Encoder(generation.hasher)
    with generation.gallery() as gallery, library.features(generation.hasher.spec) as cache:
        roots = {root.id: root.path for root in gallery.roots()}
        slots, records = zip(*gallery.scan(), strict=True)
        features = cache.take(cache.rows([record.digest for record in records]))
        domains = np.array([DOMAINS.index(record.domain) for record in records])
        packed = gallery.codes(slots)
        np.testing.assert_array_equal(packed, encoder.codes(features, domains))
        return {
            os.fsdecode(os.path.join(roots[record.root], record.path)): code.tobytes()
            for record, code in zip(records, packed, strict=True)
        }


def test_a_new_folder_is_added_and_a_second_run_opens_nothing(library, folder, opened):
    assert counts(run(library, folder)) == {"added": 10, "n_encoded": 10}
    assert set(codes(library)) >= {f"{folder}/{n}.png" for n in range(10)}
    del opened[:]
    assert counts(run(library)) == {"unchanged": 14}
    assert opened == []


def test_only_the_named_folder_is_looked_through(library, folder, tmp_path):
    run(library, folder)
    tiny.noise(tmp_path / "src/mug/new.png", 50)
    tiny.noise(folder / "new.png", 51)
    assert counts(run(library, folder)) == {"added": 1, "n_encoded": 1, "unchanged": 10}


def test_a_changed_photo_gets_a_new_code_and_loses_the_old_one(library, folder):
    run(library, folder)
    before = codes(library)
    tiny.photo(folder / "3.png", 0, 250, 250, 0)
    assert counts(run(library, folder)) == {"changed": 1, "unchanged": 9, "n_encoded": 1}
    after = codes(library)
    assert len(after) == len(before) and after[f"{folder}/3.png"] != before[f"{folder}/3.png"]


def test_a_touched_photo_is_read_and_not_encoded(library, folder, opened):
    run(library, folder)
    del opened[:]
    os.utime(folder / "3.png", ns=(1, 1))
    assert counts(run(library, folder)) == {"unchanged": 10}
    assert opened == [bytes(folder / "3.png")]
    del opened[:]
    assert counts(run(library, folder)) == {"unchanged": 10} and opened == []


def test_moved_photos_keep_code_and_slot_and_nothing_is_encoded_also_across_roots(library, folder, tmp_path):
    other = tmp_path / "other"
    tiny.noise(other / "x.png", 300)
    run(library, folder, other)
    before = codes(library)
    with library.require().gallery() as gallery:
        count = gallery.info().slots
    (folder / "sub").mkdir()
    (folder / "1.png").rename(folder / "sub/one.png")
    (folder / "2.png").rename(other / "two.png")
    assert counts(run(library)) == {"moved": 2, "unchanged": 13}
    after = codes(library)
    assert len(after) == len(before)
    assert after[f"{folder}/sub/one.png"] == before[f"{folder}/1.png"]
    assert after[f"{other}/two.png"] == before[f"{folder}/2.png"]
    with library.require().gallery() as gallery:
        assert gallery.info().slots == count


def test_two_photos_that_swap_names_both_end_up_right(library, folder):
    run(library, folder)
    before = codes(library)
    (folder / "1.png").rename(folder / "x")
    (folder / "2.png").rename(folder / "1.png")
    (folder / "x").rename(folder / "2.png")
    report = run(library, folder)
    assert (report.changed, report.n_encoded) == (2, 0)
    after = codes(library)
    assert after[f"{folder}/1.png"] == before[f"{folder}/2.png"]
    assert after[f"{folder}/2.png"] == before[f"{folder}/1.png"]


def test_a_copy_is_a_photo_of_its_own_and_one_of_two_copies_takes_a_gone_ones_place(library, folder):
    run(library, folder)
    shutil.copy(folder / "1.png", folder / "copy.png")
    assert counts(run(library, folder)) == {"added": 1, "unchanged": 10}
    shutil.copy(folder / "2.png", folder / "2a.png")
    (folder / "2.png").rename(folder / "2b.png")
    assert counts(run(library, folder)) == {"moved": 1, "added": 1, "unchanged": 10}
    assert f"{folder}/2.png" not in held(library)


def test_a_photo_that_moves_to_another_domain_gets_the_code_of_that_domain(library, folder, tmp_path):
    run(library, folder)
    before = codes(library)
    (folder / "1.png").rename(tmp_path / "src/mug/1.new.png")
    assert counts(run(library)) == {"moved": 1, "unchanged": 13}
    moved = f"{tmp_path}/src/mug/1.new.png"
    assert held(library)[moved] == ("mug", "src")
    assert codes(library)[moved] != before[f"{folder}/1.png"]


def test_gone_photos_stay_until_prune(library, folder):
    run(library, folder)
    (folder / "1.png").unlink()
    assert counts(run(library, folder)) == {"gone": 1, "unchanged": 9}
    assert len(held(library)) == 14
    assert counts(run(library, folder, prune=True)) == {"gone": 1, "pruned": 1, "unchanged": 9}
    assert f"{folder}/1.png" not in held(library) and len(held(library)) == 13


def test_many_vanished_photos_are_pruned_only_when_confirmed(library, folder):
    run(library, folder)
    for n in range(4):
        (folder / f"{n}.png").unlink()
    report = run(library, prune=True)
    assert report.held_back == [(bytes(folder), 4, 10)] and report.pruned == 0 and len(held(library)) == 14
    assert run(library, prune=True, yes=True).pruned == 4
    assert len(held(library)) == 10


def test_a_missing_root_is_reported_and_loses_nothing(library, folder, tmp_path):
    run(library, folder)
    tiny.noise(tmp_path / "src/mug/new.png", 50)
    folder.rename(tmp_path / "unplugged")
    report = run(library, prune=True, yes=True)
    assert report.missing == [bytes(folder)] and report.pruned == 0 and report.added == 1
    assert len(held(library)) == 15
    report = run(library, folder)
    assert report.missing == [bytes(folder)]


def test_a_root_that_was_renamed_and_indexed_under_its_new_name_can_be_forgotten_under_its_old_one(
    library, folder, tmp_path
):
    run(library, folder)
    folder.rename(tmp_path / "renamed")
    run(library, tmp_path / "renamed")
    with pytest.raises(UsageError, match="is indexed already") as refused:
        relocate(library, folder, tmp_path / "renamed", Silent())
    assert f"hashcli index {folder} --prune --yes" in refused.value.hint

    folder.mkdir()
    assert counts(run(library, folder, prune=True, yes=True)) == {"gone": 10, "pruned": 10}
    folder.rmdir()
    report = run(library)
    assert (report.missing, report.unchanged) == ([], 14)


def test_a_table_that_fits_nothing_changes_nothing(library, folder, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,labels\nelsewhere.png,red\n")
    for named in (folder, tmp_path / "src"):
        with pytest.raises(UsageError, match="no path in"):
            run(library, named, labels=table)

    tiny.noise(tmp_path / "src/mug/new.png", 50)
    assert counts(run(library)) == {"added": 1, "n_encoded": 1, "unchanged": 4}
    assert held(library)[f"{tmp_path}/src/mug/new.png"] == ("mug", "src")


def test_copies_of_photos_on_an_unplugged_disk_do_not_take_their_place(library, folder, tmp_path):
    run(library, folder)
    shutil.copytree(folder, tmp_path / "copies")
    shutil.rmtree(folder)
    folder.mkdir()  # an empty mount point
    report = run(library, tmp_path / "copies")
    assert (report.added, report.moved) == (10, 0)
    assert len(held(library)) == 24


def test_a_photo_belongs_to_the_deepest_root_around_it_and_to_one_only(library, folder, tmp_path):
    inner = folder / "inner"
    tiny.noise(inner / "mug/a.png", 500)
    run(library, folder)
    assert held(library)[f"{inner}/mug/a.png"] == (None, "tgt")
    report = run(library, inner, domain="src")
    assert (report.added, report.changed, report.n_encoded) == (0, 1, 0)
    assert held(library)[f"{inner}/mug/a.png"] == ("mug", "src")
    assert counts(run(library)) == {"unchanged": 15}
    assert counts(run(library, folder)) == {"unchanged": 11}
    assert counts(run(library, tmp_path, options=WalkOptions(exclude=("backbone*", "library*")))) == {"unchanged": 15}
    codes(library)


def roots(library: Library) -> dict[bytes, str]:
    with library.require().gallery() as gallery:
        return {root.path: root.domain for root in gallery.roots()}


def test_a_folder_inside_a_known_one_is_a_part_of_it(library, tmp_path):
    before = roots(library)
    tiny.noise(tmp_path / "src/mug/deep/n.png", 70)
    tiny.noise(tmp_path / "src/shoe/n.png", 71)
    assert counts(run(library, tmp_path / "src/mug")) == {"added": 1, "n_encoded": 1, "unchanged": 2}
    assert roots(library) == before
    assert held(library)[f"{tmp_path}/src/mug/deep/n.png"] == ("mug", "src"), "not `deep`"
    assert counts(run(library, tmp_path / "src/mug", domain="src")) == {"unchanged": 3}
    assert roots(library) == before


def test_pruning_a_part_of_a_folder_takes_what_is_gone_there_and_nothing_else(library, folder, tmp_path):
    for n in range(10):
        tiny.noise(folder / "part" / f"{n}.png", 400 + n)
    run(library, folder)
    (folder / "part/1.png").unlink()
    (folder / "1.png").unlink()
    assert counts(run(library, folder / "part", prune=True)) == {"gone": 1, "pruned": 1, "unchanged": 9}
    assert f"{folder}/part/1.png" not in held(library) and f"{folder}/1.png" in held(library)
    for n in range(2, 6):
        (folder / "part" / f"{n}.png").unlink()
    assert run(library, folder / "part", prune=True).held_back == [(bytes(folder / "part"), 4, 9)]


def test_a_disk_inside_a_known_folder_is_not_pruned_while_it_is_unplugged(library, folder):
    disk = folder / "disk"
    tiny.noise(disk / "a.png", 500)
    run(library, folder)
    run(library, disk, domain="src")
    shutil.rmtree(disk)
    assert run(library, folder, prune=True).pruned == 0
    disk.mkdir()  # an empty mount point: one photo of eleven, but all of the disk
    report = run(library, folder, prune=True)
    assert (report.pruned, report.held_back) == (0, [(bytes(disk), 1, 1)])


def test_dropped_features_are_made_again(library, folder, opened):
    run(library, folder)
    before = codes(library)
    shutil.rmtree(library.folder / "features")
    del opened[:]
    assert counts(run(library)) == {"unchanged": 14, "n_encoded": 14}
    assert len(opened) == 14 and codes(library) == before
    del opened[:]
    assert counts(run(library)) == {"unchanged": 14} and opened == []


def test_a_new_root_inside_another_takes_its_domain(library, tmp_path):
    tiny.noise(tmp_path / "src/mug/deep/n.png", 70)
    report = run(library, tmp_path / "src/mug")
    assert (report.added, report.unchanged, report.n_encoded) == (1, 2, 1)
    with library.require().gallery() as gallery:
        assert {root.domain for root in gallery.roots()} == {"src"}
    assert held(library)[f"{tmp_path}/src/mug/1.png"] == ("mug", "src"), "the label it was given stays"


def test_another_domain_for_a_known_root_makes_the_codes_anew_from_cached_features(library, folder):
    run(library, folder)
    before = codes(library)
    report = run(library, folder, domain="src")
    assert (report.changed, report.n_encoded) == (10, 0)
    after = codes(library)
    assert all(after[path] != before[path] for path in before if path.startswith(str(folder)))


def test_labels_come_from_the_subfolder_of_a_source_or_from_a_table(library, folder, tmp_path):
    tiny.noise(tmp_path / "src/hat/9.png", 9)
    tiny.noise(tmp_path / "src/loose.png", 8)
    run(library)
    assert held(library)[f"{tmp_path}/src/hat/9.png"] == ("hat", "src")
    assert held(library)[f"{tmp_path}/src/loose.png"] == (None, "src")
    table = tmp_path / "labels.csv"
    table.write_text("path,labels\nphotos/1.png,red;round\nphotos/2.png,blue\n")
    run(library, folder)
    report = run(library, folder, labels=table)
    assert (report.unchanged, report.n_encoded) == (10, 0)
    assert held(library)[f"{folder}/1.png"] == ("red;round", "tgt")
    (folder / "2.png").rename(folder / "moved.png")
    run(library)
    assert held(library)[f"{folder}/moved.png"] == ("blue", "tgt")
    assert held(library)[f"{folder}/3.png"] == (None, "tgt")
    (tmp_path / "src/mug/1.png").rename(tmp_path / "src/shoe/was-a-mug.png")
    run(library)
    assert held(library)[f"{tmp_path}/src/shoe/was-a-mug.png"] == ("shoe", "src")


def test_a_table_is_looked_up_for_all_folders_at_once(library, folder, tmp_path):
    run(library, folder)
    table = tmp_path / "labels.csv"
    table.write_text("path,labels\nphotos/1.png,red\n")
    assert run(library, labels=table).unchanged == 14
    assert held(library)[f"{folder}/1.png"] == ("red", "tgt")
    assert held(library)[f"{tmp_path}/src/mug/1.png"] == ("mug", "src"), "what the table does not name stays"
    with pytest.raises(UsageError, match="is a photo of"):
        run(library, tmp_path / "src", labels=table)


def test_a_folder_labeled_by_a_table_never_takes_labels_from_its_subfolders(library, folder, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,labels\nother/in/0.png,red\n")
    other = tmp_path / "other"
    for n in range(3):
        tiny.noise(other / "in" / f"{n}.png", 800 + n)
    run(library, other, domain="src", labels=table)
    tiny.noise(other / "in/new.png", 810)
    tiny.photo(other / "in/1.png", 9, 8, 200, 100)
    (other / "in/2.png").rename(other / "in/two.png")
    assert counts(run(library)) == {"added": 1, "changed": 1, "moved": 1, "unchanged": 5, "n_encoded": 2}
    labels = {path: label for path, (label, _) in held(library).items() if path.startswith(str(other))}
    assert labels == {
        f"{other}/in/0.png": "red",
        f"{other}/in/1.png": None,
        f"{other}/in/new.png": None,
        f"{other}/in/two.png": None,
    }


def test_a_photo_without_a_label_gets_none_by_being_looked_at_again(library, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,labels\nsrc/shoe/0.png,boot\n")
    run(library, tmp_path / "src", labels=table)
    os.utime(tmp_path / "src/mug/1.png", ns=(1, 1))
    tiny.noise(tmp_path / "src/mug/new.png", 60)
    run(library)
    assert held(library)[f"{tmp_path}/src/shoe/0.png"] == ("boot", "src")
    assert held(library)[f"{tmp_path}/src/mug/1.png"] == ("mug", "src"), "a label that was given stays"
    assert held(library)[f"{tmp_path}/src/mug/new.png"] == (None, "src")


def test_unreadable_photos_are_reported_every_time_and_old_records_stay(library, folder):
    run(library, folder)
    (folder / "broken.png").write_bytes(b"no photo")
    (folder / "3.png").write_bytes(b"no photo any more")
    for _ in range(2):
        report = run(library, folder)
        assert {failure.path for failure in report.failed} == {bytes(folder / "broken.png"), bytes(folder / "3.png")}
        assert (report.added, report.changed, report.unchanged, report.gone) == (0, 0, 9, 0)
    assert f"{folder}/3.png" in held(library)


def test_excluded_photos_are_neither_added_nor_gone(library, folder):
    run(library, folder)
    tiny.noise(folder / "skip-me.png", 90)
    report = run(library, folder, options=WalkOptions(exclude=("*.png",)), prune=True, yes=True)
    assert counts(report) == {}
    assert len(held(library)) == 14


def test_a_photo_that_links_lead_to_is_indexed_once_whichever_is_met_first(library, folder, tmp_path):
    outside = tiny.noise(tmp_path / "elsewhere/x.png", 900)
    (folder / "00-link.png").symlink_to(folder / "5.png")
    (folder / "out-1.png").symlink_to(outside)
    (folder / "out-2.png").symlink_to(outside)
    (folder / "sub").mkdir()
    (folder / "sub/link.png").symlink_to(folder / "6.png")
    assert counts(run(library, folder)) == {"added": 11, "n_encoded": 11}
    assert f"{folder}/out-1.png" in held(library) and f"{folder}/5.png" in held(library)
    assert counts(run(library, folder / "sub")) == {}
    assert counts(run(library, prune=True)) == {"unchanged": 15}


def test_folders_that_cannot_be_are_refused(library, folder, tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        run(library, tmp_path / "absent")
    with pytest.raises(UsageError, match="is a file"):
        run(library, folder / "1.png")
    with pytest.raises(NoLibraryError):
        run(Library.create(tmp_path / "empty"), folder)
    with library.writing(), pytest.raises(LockedError):
        run(library, folder)


def test_a_reader_that_opened_before_sees_the_state_of_then(library, folder):
    with library.require().gallery() as gallery, gallery.snapshot():
        program = """
            import sys
            from pathlib import Path
            from hashcli.indexing import index
            from hashcli.library import Library
            from hashcli.progress import Silent
            print(index(Library.open(Path(sys.argv[1])), [Path(sys.argv[2])], workers=1, progress=Silent()).added)
        """
        command = [sys.executable, "-c", textwrap.dedent(program), library.folder, folder]
        assert subprocess.run(command, capture_output=True, check=True).stdout == b"10\n"
        assert gallery.count() == 4
    assert len(held(library)) == 14


def test_index_completes_a_staged_hasher_with_everything_the_library_holds(library, folder, tmp_path):
    run(library, folder)
    (folder / "4.png").unlink()
    tiny.noise(tmp_path / "new/0.png", 700)
    staged, _ = tiny.adapt(library, tiny.backbone(tmp_path / "two", 0.5), [(tmp_path / "new", "tgt")], staged=True)
    tiny.noise(folder / "late.png", 701)
    first = library.require()
    report = run(library)
    assert report.generation == staged.name == library.require().name and library.staged() is None
    assert (report.carried, report.added) == (13, 1)
    assert [failure.path for failure in report.lost] == [bytes(folder / "4.png")]
    assert len(held(library)) == 15
    codes(library)
    with library.writing():
        assert library.rollback().name == first.name
    assert len(held(library)) == 14 and f"{folder}/4.png" in held(library)


def test_killed_between_batches_the_gallery_opens_and_a_second_run_completes_it(library, folder, opened):
    program = """
        import os, signal, sys
        from pathlib import Path
        from hashcli import carrying, indexing
        from hashcli.gallery import Gallery
        from hashcli.library import Library
        from hashcli.progress import Silent

        carrying.blocks.__defaults__ = (3,)
        append, done = Gallery.append, []

        def dying(self, records, packed):
            if len(done) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(append(self, records, packed))

        Gallery.append = dying
        indexing.index(Library.open(Path(sys.argv[1])), [Path(sys.argv[2])], workers=1, progress=Silent())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), library.folder, folder]
    assert subprocess.run(command, capture_output=True).returncode == -9
    assert len(held(library)) == 4 + 6
    report = run(library)
    assert (report.added, report.unchanged) == (4, 10) and report.n_encoded <= 4
    assert len(codes(library)) == 14


def test_blocks_do_not_matter(library, folder, monkeypatch):
    monkeypatch.setattr(carrying.blocks, "__defaults__", (3,))
    (folder / "1.png").rename(folder / "z.png")
    assert counts(run(library, folder)) == {"added": 10, "n_encoded": 10}
    (folder / "z.png").rename(folder / "a.png")
    assert counts(run(library, folder)) == {"moved": 1, "unchanged": 9}
    assert len(codes(library)) == 14


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names of all photos that a run asks the caches about from now on."""
    asked: list[bytes] = []
    get = IdentityCache.get

    def noted(self: IdentityCache, files: list[PhotoFile]) -> list[bytes | None]:
        asked.extend(os.path.basename(file.path) for file in files)
        return get(self, files)

    monkeypatch.setattr(IdentityCache, "get", noted)
    return asked


def test_photos_of_a_folder_that_is_as_before_are_not_looked_at(library, folder, monkeypatch):
    for n in range(3):
        tiny.noise(folder / "sub" / f"s{n}.png", 40 + n)
    run(library, folder)
    run(library)
    asked = looked_at(monkeypatch)
    assert counts(run(library)) == {"unchanged": 17} and asked == []
    tiny.noise(folder / "sub/new.png", 60)
    assert counts(run(library)) == {"added": 1, "n_encoded": 1, "unchanged": 17}
    assert set(asked) == {b"s0.png", b"s1.png", b"s2.png", b"new.png"}
    os.utime(folder / "3.png", ns=(1, 1))
    del asked[:]
    assert counts(run(library, folder)) == {"unchanged": 14}
    assert b"3.png" in asked
    run(library)
    del asked[:]
    assert counts(run(library)) == {"unchanged": 18} and asked == []


def test_a_folder_as_before_is_looked_at_when_gallery_or_features_are_not(library, folder, monkeypatch):
    def settle() -> None:
        run(library)
        run(library)
        assert counts(run(library)) == {"unchanged": 14}

    run(library, folder)
    settle()
    with library.writing(), library.require().gallery(write=True) as gallery:
        gallery.remove([gallery.info().slots - 1])
    assert counts(run(library)) == {"added": 1, "unchanged": 13}
    settle()
    shutil.rmtree(library.folder / "features")
    assert counts(run(library)) == {"unchanged": 14, "n_encoded": 14}
    settle()
    assert counts(run(library, folder, domain="src")) == {"changed": 10}


def test_what_another_generation_of_the_same_hasher_holds_is_not_passed_over(library, folder, tmp_path):
    def counter() -> bytes:
        return (library.require().folder / "gallery/counter").read_bytes()

    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [])
    run(library, folder)
    run(library, folder)
    later, there = library.require(), counter()
    with library.writing():
        library.rollback()
    assert library.require().hasher.digest == later.hasher.digest
    while counter() != there:  # as many changes as there, though others
        with library.writing(), library.require().gallery(write=True) as gallery:
            gallery.set_root(gallery.roots()[0])

    assert run(library, folder).added == 10


def test_what_is_gone_is_counted_beside_folders_as_before(library, folder, tmp_path):
    run(library, folder)
    run(library)
    (folder / "1.png").unlink()
    for _ in range(3):
        assert counts(run(library)) == {"gone": 1, "unchanged": 13}
    assert counts(run(library, tmp_path / "src")) == {"unchanged": 4}
    assert counts(run(library, prune=True)) == {"gone": 1, "pruned": 1, "unchanged": 13}
    assert counts(run(library)) == {"unchanged": 13}


def test_a_file_without_extension_that_is_no_photo_does_not_hide_one_that_is_gone(library, folder):
    tiny.noise(folder / "inner" / "1.png", 50)
    (folder / "inner" / "README").write_text("no photo")
    run(library, folder)
    assert counts(run(library, folder)) == {"unchanged": 11}
    os.remove(folder / "3.png")

    assert counts(run(library, folder)) == {"unchanged": 10, "gone": 1}


def test_a_folder_that_went_away_and_comes_back_just_as_it_was_is_looked_at(library, folder, tmp_path):
    for n in range(3):
        tiny.noise(folder / "sub" / f"{n}.png", 50 + n)
    run(library, folder)
    assert counts(run(library, folder)) == {"unchanged": 13}
    before = held(library)

    (folder / "sub").rename(folder / "other")
    assert counts(run(library, folder)) == {"moved": 3, "unchanged": 10}
    (folder / "other").rename(folder / "sub")
    assert counts(run(library, folder)) == {"moved": 3, "unchanged": 10}
    assert held(library) == before
    assert counts(run(library, folder)) == {"unchanged": 13}

    (folder / "sub").rename(tmp_path / "away")
    assert counts(run(library, folder, prune=True)) == {"gone": 3, "pruned": 3, "unchanged": 10}
    (tmp_path / "away").rename(folder / "sub")
    assert counts(run(library, folder)) == {"added": 3, "unchanged": 10}
    assert held(library) == before


def test_a_folder_with_problems_is_told_of_each_time(library, folder):
    (folder / "pipe.png").symlink_to("nowhere.png")
    for _ in range(3):
        assert [failure.path for failure in run(library, folder).failed] == [bytes(folder / "pipe.png")]


def test_other_filters_find_other_photos_in_a_folder_as_before(library, folder):
    tiny.noise(folder / ".hidden.png", 5)
    run(library, folder)
    run(library)
    assert run(library).unchanged == 14
    assert counts(run(library, options=WalkOptions(hidden=True)))["added"] == 1
    assert run(library, options=WalkOptions(include=("1*",))).unchanged == 1


def test_killed_while_a_staged_hasher_is_completed_moved_photos_do_not_come_back(
    library, folder, tmp_path, monkeypatch
):
    run(library, folder)
    n_photos = len(held(library))
    tiny.adapt(library, tiny.backbone(tmp_path / "two", 0.5), [], staged=True)
    (folder / "4.png").rename(folder / "elsewhere.png")

    def die(self, staged):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Library, "complete", die)
        run(library)
    run(library)
    assert f"{folder}/4.png" not in held(library) and f"{folder}/elsewhere.png" in held(library)
    assert len(held(library)) == n_photos
