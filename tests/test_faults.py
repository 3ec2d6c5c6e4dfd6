"""Full disks, read-only folders, clocks that go backwards, files that change: each costs what it must and no more."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from campaigns import permissions, world
from hashcli import cli, gallery
from hashcli.errors import HashcliError, LibraryError, LockedError, MachineError
from hashcli.gallery import Gallery
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.search import nearest
from hashcli.verifying import verify
from tests import tiny


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(gallery, "BLOCK_SLOTS", 16)
    return tiny.decode_here(monkeypatch)


@pytest.fixture
def photos(tmp_path):
    for number in range(12):
        tiny.noise(tmp_path / "photos" / f"{number:02}.png", number)
    return tmp_path / "photos"


@pytest.fixture
def library(tmp_path, photos):
    made = Library.at(tmp_path / "library")
    tiny.adapt(made, tiny.backbone(tmp_path / "backbone"), [(photos, "tgt")])
    return made


def run(library: Library):
    return index(library, progress=Silent())


def held(library: Library) -> set[str]:
    return {os.path.basename(path) for path in tiny.held(library.require())}


@pytest.fixture
def full_disk():
    """From the call on, no file of this process may grow beyond so many bytes: writes end short or with an error."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_on_a_full_disk_index_stops_and_the_library_is_as_it_was(library, photos, full_disk, share):
    before = held(library)
    for number in range(100, 160):
        tiny.noise(photos / f"{number}.png", number)
    largest = max(path.stat().st_size for path in library.folder.rglob("*.mdb"))
    full_disk(int(share * largest))
    with pytest.raises((MachineError, LibraryError, OSError)):
        run(library)
    full_disk(resource.RLIM_INFINITY)
    assert held(library) == before
    assert run(library).added == 60
    assert verify(library, Silent()) == []


def test_a_disk_that_fails_to_write_is_told_and_nothing_is_half_done(library, photos, monkeypatch):
    before = held(library)
    tiny.noise(photos / "new.png", 99)

    def fail(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises((HashcliError, OSError), match="Input/output error"):
            run(library)
    assert before <= held(library) <= before | {"new.png"}
    run(library)
    assert held(library) == before | {"new.png"} and verify(library, Silent()) == []


def test_a_clock_that_goes_backwards_loses_no_photo_and_finds_all_changes(library, photos, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000 * 10**9)
    tiny.noise(photos / "new.png", 99)
    os.utime(photos / "new.png", (500_000, 500_000))
    tiny.noise(photos / "03.png", 98)
    os.utime(photos / "03.png", (400_000, 400_000))
    report = run(library)
    assert (report.added, report.changed, report.gone) == (1, 1, 0)
    assert run(library).added == 0
    tiny.adapt(library, library.require().hasher.backbone, [], seed=4)
    assert len(held(library)) == 13 and library.require().name == "g000002"


def test_a_second_writer_is_refused_and_readers_go_on(library, photos):
    with library.writing():
        with pytest.raises(LockedError):
            run(Library.open(library.folder))
        (result,) = nearest(Library.open(library.folder), [os.fsencode(photos / "00.png")])
        assert len(result.matches) == 10


def test_a_library_that_may_only_be_read_is_searched_and_refuses_writers(library, photos, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    opener = os.open

    def refuse(path, flags, *args, **kwargs):
        if str(library.folder) in os.fsdecode(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", os.fspath(path))
        return opener(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    (result,) = nearest(Library.open(library.folder), [os.fsencode(photos / "00.png")])
    assert len(result.matches) == 10
    with pytest.raises(LibraryError, match="cannot be written"):
        run(Library.open(library.folder))


def bound(work: Callable[[], str]) -> str:
    """What `work` says in a process that permissions bind, whoever runs the tests."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            permissions.heed()
            os.write(writing, work().encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode()


def after_two_photos(monkeypatch: pytest.MonkeyPatch, revoke: Callable[[], None]) -> None:
    """When two photos were decoded: the walk is over, nothing is stored."""
    decode, calls = tiny.decode_one, []

    def one(file, size, fit):
        calls.append(file)
        if len(calls) == 3:
            revoke()
        return decode(file, size, fit)

    monkeypatch.setattr(tiny, "decode_one", one)


def test_photos_that_may_no_longer_be_read_in_the_middle_are_listed_and_the_others_indexed(
    library, photos, monkeypatch
):
    before = held(library)
    for number in range(100, 104):
        tiny.noise(photos / f"{number}.png", number)
        tiny.noise(photos / "below" / f"{number + 50}.png", number + 50)

    def revoke() -> None:
        (photos / "below").chmod(0)
        (photos / "103.png").chmod(0)

    def work() -> str:
        report = run(library)
        reasons = {failure.reason for failure in report.failed}
        return f"{report.added} {len(report.failed)} {reasons} {verify(library, Silent())}"

    with monkeypatch.context() as patch:
        after_two_photos(patch, revoke)
        added, failed, rest = bound(work).split(" ", 2)
    assert int(added) + int(failed) == 8 and int(failed) >= 4 and rest == "{'permission denied'} []"
    assert len(held(library)) == 12 + int(added)
    assert bound(lambda: f"{run(library).gone} {len(held(library))}") == f"0 {12 + int(added)}", "none of them is gone"
    (photos / "below").chmod(0o755)
    (photos / "103.png").chmod(0o644)
    assert run(library).added == int(failed)
    assert before < held(library) and len(held(library)) == 20


@pytest.mark.parametrize("part", ["gallery", "features", "identity", "generations", "."])
def test_a_library_that_may_no_longer_be_written_in_the_middle_ends_the_run_and_loses_nothing(
    library, photos, monkeypatch, part
):
    before = held(library)
    for number in range(100, 140):
        tiny.noise(photos / f"{number}.png", number)
    folder = library.require().folder / "gallery" if part == "gallery" else library.folder / part
    below = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in below}

    def revoke() -> None:
        for path in reversed(below):
            path.chmod(0o555 if path.is_dir() else 0o444)

    def work() -> str:
        code = cli.main(["index", "--quiet", "--library", str(library.folder)])
        return f"{code} {len(held(library))}"

    with monkeypatch.context() as patch:
        after_two_photos(patch, revoke)
        code, n_held = bound(work).split()
    for path, mode in modes.items():
        path.chmod(mode)
    assert code in ("0", "4", "5"), "done where nothing new had to be opened there, else an error that says so"
    assert len(before) <= int(n_held) <= len(before) + 40
    assert verify(library, Silent()) == []
    run(library)
    assert len(held(library)) == len(before) + 40 and verify(library, Silent()) == []


@pytest.mark.parametrize(
    "part",
    [
        "library.json",
        "current",
        "generations",
        "gallery/data.mdb",
        "hasher/hasher.json",
        "hasher/head.onnx",
        "hasher/backbone.onnx",
    ],
)
def test_what_may_not_be_read_of_a_library_is_named_and_never_repaired(library, photos, tmp_path, capfd, part):
    unseen = tiny.noise(tmp_path / "unseen.png", 99)
    generation = library.require().folder
    path = generation / part if "/" in part else library.folder / part
    before = contents(library.folder)
    mode = path.stat().st_mode
    path.chmod(0)
    for command in (["query", str(unseen)], ["library", "repair"]):
        code = bound(lambda command=command: str(cli.main([*command, "--library", str(library.folder)])))
        said = capfd.readouterr().err
        assert code in "45" and "ermission" in said and "Traceback" not in said, (command, code, said)
    path.chmod(mode)
    assert contents(library.folder) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "lock" not in path.name}


def test_a_library_on_a_network_folder_is_used_and_the_user_is_told(library, photos, monkeypatch):
    monkeypatch.setattr("hashcli.mounts._mounts", lambda: [("/", "ext4"), (str(library.folder), "nfs4")])
    said: list[str] = []
    progress = Silent()
    progress.say = said.append  # type: ignore[method-assign]
    tiny.noise(photos / "new.png", 99)
    assert index(library, progress=progress).added == 1
    assert "network file system (nfs4): use this library from one machine at a time" in said[0]


def test_codes_do_not_depend_on_the_order_of_files_or_on_batches(library, photos, tmp_path, monkeypatch):
    shuffled = tmp_path / "shuffled"
    listed = os.scandir

    def backwards(*args):
        with listed(*args) as entries:
            return _Entries(sorted(entries, key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr("hashcli.carrying.blocks.__defaults__", (3,))
    monkeypatch.setattr(os, "scandir", backwards)
    other = Library.at(shuffled)
    tiny.adapt(other, library.require().hasher.backbone, [(photos, "tgt")])
    assert _codes(other) == _codes(library)


class _Entries:
    """What os.scandir gives, of a list."""

    def __init__(self, entries):
        self._entries = iter(entries)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._entries)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def close(self):
        pass


def _codes(library: Library) -> dict[bytes, bytes]:
    with library.require().gallery() as opened:
        assert isinstance(opened, Gallery)
        return {record.path: opened.codes([slot]).tobytes() for slot, record in opened.scan()}


def test_a_gallery_whose_file_is_cut_while_it_is_read_ends_the_command_with_a_message(library, photos):
    """In a forked process: the system ends it."""
    data = Path(library.require().folder / "gallery" / "data.mdb")
    answer = world.ask("query", str(photos / "00.png"), "--library", str(library.folder))
    assert answer.code == 0
    os.truncate(data, 3 * 4096)
    answer = world.ask("query", str(photos / "00.png"), "--library", str(library.folder))
    assert answer.code == 4 and "damaged" in answer.err and "Traceback" not in answer.err
