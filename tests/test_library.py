"""The library folder: opening, generations, the switch between them, and one writer at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hashcli.durable import disk_usage, replace_file
from hashcli.errors import DamagedError, LibraryError, LockedError, MachineError, NewerFormatError, NoLibraryError
from hashcli.generations import current_file
from hashcli.library import Building, Library, default_location
from hashcli.progress import Silent


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.create(tmp_path / "library")


def published(library: Library, state: str = "complete") -> str:
    """Publish a generation that holds one file, in a writing session of its own."""
    with library.writing(), library.new_generation() as building:
        (building.folder / "content").write_text(building.name)
        return library.publish(building, state).name  # type: ignore[arg-type]


def names(library: Library) -> list[str]:
    return sorted(os.listdir(library.folder / "generations"))


def test_the_environment_names_the_default_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HASHCLI_LIBRARY", str(tmp_path / "mine"))
    assert default_location() == tmp_path / "mine"
    monkeypatch.delenv("HASHCLI_LIBRARY")
    assert "hashcli" in str(default_location())


def test_a_created_library_opens_and_has_nothing_in_it(library: Library) -> None:
    opened = Library.open(library.folder)
    assert opened.current() is None and opened.staged() is None and opened.generations() == []
    with pytest.raises(NoLibraryError, match="no hasher"):
        opened.require()
    assert Library.create(library.folder).folder == library.folder


def test_where_there_is_no_library_the_hint_says_how_to_make_one(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(NoLibraryError) as caught:
            Library.open(folder)
        assert "hashcli adapt" in str(caught.value.hint)
    assert not (tmp_path / "absent").exists()


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(LibraryError, match="other things"):
        Library.create(tmp_path)
    assert os.listdir(tmp_path) == ["holiday.jpg"]
    with pytest.raises(LibraryError):
        Library.create(tmp_path / "holiday.jpg")


def test_a_library_json_of_something_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "library.json").write_text('{"songs": []}')
    with pytest.raises(NoLibraryError):
        Library.create(tmp_path)
    assert (tmp_path / "library.json").read_text() == '{"songs": []}'


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": "hashcli-library"}', "\udcff"])
def test_a_damaged_library_json_is_said_to_be_damaged(library: Library, content: str) -> None:
    (library.folder / "library.json").write_text(content, errors="surrogateescape")
    with pytest.raises(DamagedError):
        Library.open(library.folder)


def test_a_lost_library_json_is_damage_and_not_an_invitation_to_start_over(library: Library) -> None:
    published(library)
    (library.folder / "library.json").unlink()
    with pytest.raises(DamagedError):
        Library.create(library.folder)


def test_a_newer_format_is_refused_by_name(library: Library) -> None:
    name = published(library)
    for path in (library.folder / "library.json", library.folder / "generations" / name / "generation.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"version": 2}))
        with pytest.raises(NewerFormatError, match="version 2"):
            Library.open(library.folder).require()
        path.write_text(json.dumps(record))


def test_any_flipped_bit_in_the_small_files_is_damage_and_never_another_generation(library: Library) -> None:
    for _ in range(3):
        published(library)  # g000002 and g000003 are one bit apart
    name = library.require().name
    parts = ["library.json", "current", f"generations/{name}/generation.json"]
    for path in (library.folder / part for part in parts):
        sound = path.read_bytes()
        for place in range(0, 8 * len(sound), 1 if len(sound) < 20 else 11):
            flipped = bytearray(sound)
            flipped[place // 8] ^= 1 << place % 8
            path.write_bytes(flipped)
            try:
                found = Library.open(library.folder).require()
                assert (found.name, found.parent, found.state) == (name, "g000002", "complete")
                assert json.loads(path.read_bytes()) == json.loads(sound), f"bit {place} of {path.name}"
            except LibraryError:
                continue
        path.write_bytes(sound)


def test_publishing_switches_and_keeps_one_generation_to_go_back_to(library: Library) -> None:
    first, second, third = (published(library) for _ in range(3))
    assert names(library) == [second, third]
    current = library.require()
    assert (current.name, current.parent, current.state) == (third, second, "complete")
    assert (current.folder / "content").read_text() == third
    assert first not in names(library)


def test_rollback_goes_back_and_a_second_one_forth_again(library: Library) -> None:
    first, second = published(library), published(library)
    with library.writing():
        assert library.rollback().name == first
        assert library.require().name == first
        assert library.rollback().name == second
    assert library.require().name == second


def test_after_a_rollback_the_next_generation_replaces_the_rejected_one(library: Library) -> None:
    first, rejected = published(library), published(library)
    with library.writing():
        library.rollback()
    third = published(library)
    assert third > rejected and names(library) == [first, third]
    assert library.require().parent == first


def test_with_one_generation_there_is_nothing_to_go_back_to(library: Library) -> None:
    published(library)
    with library.writing(), pytest.raises(LibraryError, match="no other generation"):
        library.rollback()


def test_a_staged_generation_waits_beside_the_current_one(library: Library) -> None:
    first = published(library)
    staged = published(library, "staged")
    assert library.require().name == first
    found = library.staged()
    assert found is not None and found.name == staged
    newer = published(library, "staged")
    assert names(library) == [first, newer], "one staged generation is enough"
    with library.writing():
        complete = library.complete(library.staged() or pytest.fail("nothing staged"))
    assert (complete.name, complete.parent, complete.state) == (newer, first, "complete")
    assert library.require().name == newer and library.staged() is None


def test_a_newer_hasher_drops_the_staged_one_and_says_so(library: Library) -> None:
    said: list[str] = []

    class Listening(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    first = published(library)
    staged = published(library, "staged")
    with library.writing(), library.new_generation() as building:
        newer = library.publish(building, "complete", Listening()).name
    assert names(library) == [first, newer] and library.staged() is None
    assert len(said) == 1 and staged in said[0]


def test_a_library_with_only_a_staged_hasher_says_how_to_complete_it(library: Library) -> None:
    published(library, "staged")
    with pytest.raises(NoLibraryError) as caught:
        library.require()
    assert "hashcli index" in str(caught.value.hint)


def test_killed_between_switch_and_record_the_completed_generation_is_in_use_for_good(library: Library) -> None:
    first = published(library)
    staged = published(library, "staged")
    replace_file(library.folder / "current", current_file(staged))
    assert library.require().name == staged and library.staged() is None
    with library.writing():
        assert library.require().state == "complete"
        assert library.rollback().name == first
    assert library.staged() is None, "the next index must not undo the rollback"
    with library.writing():
        assert library.rollback().name == staged


def test_killed_between_rename_and_switch_the_generation_was_never_in_use(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    first = published(library)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hashcli.generations.replace_file", die)
        published(library)
    assert library.require().name == first and len(names(library)) == 2
    with library.writing(), pytest.raises(LibraryError, match="no other generation"):
        library.rollback()
    staged = library.staged()
    assert staged is not None, "the next index takes it into use"
    newest = published(library)
    assert names(library) == [first, newest], "unless something newer comes"


def test_a_failed_build_leaves_nothing(library: Library) -> None:
    first = published(library)
    with library.writing(), pytest.raises(RuntimeError, match="no"), library.new_generation() as building:
        (building.folder / "half").write_text("x")
        raise RuntimeError("no")
    assert names(library) == [first] and library.require().name == first


def test_what_a_killed_writer_left_goes_with_the_next_one(library: Library) -> None:
    first = published(library)
    stale = library.folder / "generations" / ".new-g000002"
    stale.mkdir()
    (stale / "half").write_text("x")
    assert Library.open(library.folder).require().name == first and stale.exists(), "readers remove nothing"
    with library.writing():
        assert names(library) == [first]


def test_a_reader_keeps_a_generation_that_is_pruned_meanwhile(library: Library) -> None:
    published(library)
    current = library.require()
    with open(current.folder / "content") as content:
        for _ in range(3):
            published(library)
        assert not current.folder.exists()
        assert content.read() == current.name


def test_a_reader_that_meets_a_publish_looks_again(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    published(library)
    opened = Library.open(library.folder)
    honest = opened._generations.current_name
    asked: list[str] = []

    def slow() -> str | None:
        name = honest()
        if not asked:  # between this reader's two reads, two generations are published
            published(library)
            published(library)
        asked.append(name or "")
        return name

    monkeypatch.setattr(opened._generations, "current_name", slow)
    assert opened.require().name == "g000003" and asked == ["g000001", "g000003"]


def test_a_current_that_names_nothing_is_damage_and_rollback_mends_it(library: Library) -> None:
    first, second = published(library), published(library)
    (library.folder / "current").write_bytes(current_file("g000009"))
    with pytest.raises(DamagedError, match="g000009"):
        library.require()
    with library.writing():
        assert library.rollback().name == second != first
    (library.folder / "current").write_text("../../etc\n")
    with pytest.raises(DamagedError):
        library.require()


def test_a_second_writer_is_told_who_writes(library: Library) -> None:
    with library.writing():
        with pytest.raises(LockedError, match=str(os.getpid())), Library.open(library.folder).writing():
            pass
        with pytest.raises(LockedError), library.writing():
            pass
    with library.writing():
        pass


def test_another_process_is_kept_out_until_the_writer_dies(library: Library) -> None:
    program = """
        import sys, time
        from pathlib import Path
        from hashcli.library import Library
        with Library.open(Path(sys.argv[1])).writing():
            print("writing", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(library.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        with pytest.raises(LockedError, match=str(writer.pid)), library.writing():
            pass
        assert library.current() is None, "reading goes on"
        writer.kill()
        writer.wait()
    with library.writing():
        pass


def test_writing_outside_the_lock_is_a_bug_that_shows(library: Library) -> None:
    with pytest.raises(RuntimeError), library.new_generation():
        pass
    with pytest.raises(RuntimeError):
        library.publish(Building("g000001", library.folder))


def test_a_folder_that_cannot_be_written_is_said_so(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hashcli.library.os.open", refuse)
    with pytest.raises(LibraryError, match="cannot be written: Permission denied"), library.writing():
        pass


def test_a_file_system_without_locks_is_said_so(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("hashcli.library.fcntl.flock", refuse)
    with pytest.raises(LibraryError, match="cannot be locked: No locks available"), library.writing():
        pass


def test_a_full_disk_is_the_machines_fault_and_the_old_generation_stays(library: Library) -> None:
    first = published(library)
    with pytest.raises(MachineError, match="no space"), library.writing(), library.new_generation():
        raise OSError(28, "No space left on device")
    assert library.require().name == first and names(library) == [first]
    with pytest.raises(FileNotFoundError), library.writing():
        raise FileNotFoundError(2, "other failures pass as they are")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "current"
    replace_file(path, b"old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("hashcli.durable.os.fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["current"]


def test_work_folders_last_until_they_are_dropped(library: Library) -> None:
    with library.writing():
        folder = library.work("job")
        (folder / "checkpoint").write_text("x")
    with library.writing():
        assert (library.work("job") / "checkpoint").exists()
        library.drop_work("job")
        library.drop_work("job")
    assert not folder.exists()


def test_shared_files_count_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "backbone").write_bytes(bytes(range(256)) * 256)
    os.link(tmp_path / "a" / "backbone", tmp_path / "b" / "backbone")
    counted: set[tuple[int, int]] = set()
    assert disk_usage(tmp_path / "a", counted) > 0 and disk_usage(tmp_path / "b", counted) == 0


def test_a_library_on_a_network_folder_warns(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hashcli.mounts.is_network_folder", lambda folder: "nfs4")
    assert "nfs4" in (library.warning() or "")
    monkeypatch.setattr("hashcli.mounts.is_network_folder", lambda folder: None)
    assert library.warning() is None
