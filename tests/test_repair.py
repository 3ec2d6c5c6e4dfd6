"""verify names what is damaged and for which photo; repair rebuilds what can be rebuilt, and index does the rest."""

from __future__ import annotations

import os
import shutil

import lmdb
import pytest

from hashcli import blocks, gallery
from hashcli.cli import main
from hashcli.errors import DamagedError, LibraryError, NoLibraryError
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.records import slot_key
from hashcli.repairing import DAMAGED, repair
from hashcli.verifying import verify
from tests import tiny


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(gallery, "BLOCK_SLOTS", 8)
    return tiny.decode_here(monkeypatch)


@pytest.fixture
def library(tmp_path):
    """Twenty photos of two classes, in three blocks of codes."""
    for number in range(20):
        tiny.noise(tmp_path / "photos" / f"class{number % 2}" / f"{number:02}.png", number)
    made = Library.at(tmp_path / "library")
    tiny.adapt(made, tiny.backbone(tmp_path / "backbone"), [(tmp_path / "photos", "src")])
    return made


def lose(library, *, name: bytes, key: bytes, flip: int | None = None) -> None:
    """Take out one value of the gallery in use, or flip a bit of one of its bytes."""
    with lmdb.open(str(library.current().folder / "gallery"), max_dbs=8) as env:
        database = env.open_db(name, create=False)
        with env.begin(write=True) as txn:
            value = bytearray(txn.get(key, db=database))
            if flip is None:
                txn.delete(key, db=database)
            else:
                value[flip] ^= 1
                txn.put(key, bytes(value), db=database)


def shard_of(library):
    (shard,) = (library.folder / "features").glob("*/shard-*")
    return shard


def flip(path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def codes_of(library) -> dict[str, bytes]:
    with library.current().gallery() as opened:
        return {record.path.decode(): opened.codes([slot]).tobytes() for slot, record in opened.scan()}


def assert_whole(library):
    assert verify(library, Silent()) == []


def test_a_sound_library_has_no_findings_and_repair_changes_nothing(library):
    before = codes_of(library)
    assert_whole(library)
    assert repair(library.folder, Silent()).done == []
    assert codes_of(library) == before


def test_verify_names_the_photo_of_a_damaged_feature(library, tmp_path):
    flip(shard_of(library), 40)
    (finding,) = verify(library, Silent())
    assert finding.item.startswith("features ")
    assert finding.path == bytes(tmp_path / "photos" / "class0" / "00.png")

    assert repair(library.folder, Silent()).done == ["dropped 1 damaged features"]
    assert_whole(library)


def test_training_goes_on_over_damaged_features_and_makes_them_again(library, tmp_path, here):
    before = codes_of(library)
    flip(shard_of(library), 40)
    shutil.rmtree(library.folder / "identity")
    here.clear()
    said: list[str] = []
    progress = Silent()
    progress.say = said.append

    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [], progress=progress)

    assert [os.path.basename(path) for path in here] == [b"00.png"]
    assert said[0] == "1 cached features are damaged; their photos are read again"
    assert codes_of(library) == before
    assert_whole(library)


def test_codes_of_a_damaged_block_are_made_again_from_features(library, tmp_path):
    before, held = codes_of(library), tiny.held(library.current())
    lose(library, name=b"blocks", key=blocks.key(1), flip=-3)
    found = verify(library, Silent())
    assert sorted(finding.path for finding in found if finding.path) == sorted(
        bytes(tmp_path / "photos" / path) for path in [p for p in before][8:16]
    )

    repaired = repair(library.folder, Silent())

    assert (repaired.lost, repaired.nameless) == ([], 0)
    assert codes_of(library) == before
    assert tiny.held(library.current()) == held
    assert (library.current().folder / DAMAGED / "data.mdb").exists()
    assert_whole(library)


def test_photos_without_code_and_feature_are_named_and_index_adds_them(library, tmp_path):
    before = codes_of(library)
    lose(library, name=b"blocks", key=blocks.key(0))
    shutil.rmtree(library.folder / "features")

    repaired = repair(library.folder, Silent())

    assert sorted(failure.path for failure in repaired.lost) == [
        bytes(tmp_path / "photos" / path) for path in [p for p in before][:8]
    ]
    assert len(codes_of(library)) == 12
    index(library, progress=Silent())
    assert codes_of(library) == before
    assert_whole(library)


def test_a_lost_record_is_counted_and_index_adds_its_photo(library):
    before = codes_of(library)
    lose(library, name=b"records", key=slot_key(5))

    repaired = repair(library.folder, Silent())

    assert (repaired.nameless, len(codes_of(library))) == (1, 19)
    index(library, progress=Silent())
    assert codes_of(library) == before
    assert_whole(library)


def test_a_cut_gallery_gets_its_photos_from_the_generation_before(library, tmp_path):
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [], seed=1)
    before, held = codes_of(library), tiny.held(library.current())
    os.truncate(library.current().folder / "gallery" / "data.mdb", 20_000)

    repaired = repair(library.folder, Silent())

    assert "found nothing in the gallery of g000002" in repaired.done[0]
    assert codes_of(library) == before
    assert tiny.held(library.current()) == held
    assert_whole(library)


def test_a_cut_gallery_without_another_one_is_made_empty_and_its_folders_are_asked_for(library, tmp_path):
    before = codes_of(library)
    os.truncate(library.current().folder / "gallery" / "data.mdb", 20_000)

    done = repair(library.folder, Silent()).done

    assert done[1:] == [
        "rebuilt the gallery of g000001: 0 photos saved",
        "its folders are not known any more: `hashcli index DIR` adds them again",
    ]
    assert_whole(library)
    index(library, [tmp_path / "photos"], domain="src", progress=Silent())
    assert codes_of(library) == before


def test_an_older_gallery_that_has_come_back_is_taken_as_it_is(library, tmp_path):
    folder = library.current().folder / "gallery"
    old = (folder / "data.mdb").read_bytes()
    tiny.noise(tmp_path / "photos" / "class1" / "99.png", 99)
    index(library, progress=Silent())
    new = codes_of(library)
    (folder / "data.mdb").write_bytes(old)
    with pytest.raises(DamagedError, match="older state"):
        codes_of(library)

    repair(library.folder, Silent())

    assert len(codes_of(library)) == 20
    index(library, progress=Silent())
    assert codes_of(library) == new
    assert_whole(library)


@pytest.mark.parametrize("name", ["library.json", "current"])
@pytest.mark.parametrize("content", [None, "?"])
def test_the_librarys_own_small_files_are_written_anew(library, name, content):
    before = codes_of(library)
    (library.folder / name).unlink() if content is None else (library.folder / name).write_text(content)
    with pytest.raises(LibraryError):
        Library.open(library.folder).require()

    repair(library.folder, Silent())

    assert codes_of(Library.open(library.folder)) == before


def test_damaged_caches_are_dropped(library):
    (index_file,) = (library.folder / "features").glob("*/index/data.mdb")
    os.truncate(index_file, 5000)
    flip(library.folder / "identity" / "data.mdb", 20)
    items = {finding.item.split()[0] for finding in verify(library, Silent())}
    assert items == {"features", "identity"}

    assert len(repair(library.folder, Silent()).done) == 2

    assert_whole(library)
    index(library, progress=Silent())
    assert_whole(library)


def test_a_damaged_hasher_in_use_is_told_and_another_one_is_set_aside(library, tmp_path):
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [], seed=1)
    first, second = library.generations()
    flip(first.folder / "hasher" / "head.onnx", 99)
    assert [finding.item for finding in verify(library, Silent())] == ["g000001 hasher"]

    repaired = repair(library.folder, Silent())

    assert [g.name for g in library.generations()] == [second.name]
    assert (library.folder / "work" / "damaged-g000001" / "hasher").is_dir()
    assert repaired.left == []
    flip(second.folder / "hasher" / "head.onnx", 99)
    assert "head.onnx is not the file" in repair(library.folder, Silent()).left[0]


def test_a_folder_without_a_library_is_not_made_one(tmp_path):
    with pytest.raises(NoLibraryError):
        repair(tmp_path / "nothing", Silent())
    assert os.listdir(tmp_path) == []


def test_the_commands_list_mend_and_exit_with_4_while_there_is_damage(library, tmp_path, monkeypatch, capfd):
    def hashcli(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["hashcli", *arguments, "--library", str(library.folder)])
        return main(), *capfd.readouterr()

    flip(shard_of(library), 40)
    code, out, err = hashcli("library", "verify")
    assert (code, out.split("\t")[1]) == (4, str(tmp_path / "photos" / "class0" / "00.png"))
    assert "`hashcli library repair`" in err
    code, out, err = hashcli("library", "repair")
    assert (code, out) == (0, "")
    assert "dropped 1 damaged features" in err
    code, out, err = hashcli("library", "verify")
    assert (code, out) == (0, "")
    assert "all is as it was written" in err
