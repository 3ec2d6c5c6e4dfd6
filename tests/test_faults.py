"""Full disks, read-only folders, clocks that go backwards, files that change: each costs what it must and no more."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from hashcli import gallery
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
    from campaigns import world

    data = Path(library.require().folder / "gallery" / "data.mdb")
    answer = world.ask("query", str(photos / "00.png"), "--library", str(library.folder))
    assert answer.code == 0
    os.truncate(data, 3 * 4096)
    answer = world.ask("query", str(photos / "00.png"), "--library", str(library.folder))
    assert answer.code == 4 and "damaged" in answer.err and "Traceback" not in answer.err
