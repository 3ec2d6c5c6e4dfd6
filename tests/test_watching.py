"""index --watch: what changes is indexed, and a signal ends it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from hashcli import cli, watching
from hashcli.errors import LockedError, MachineError
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.progress import Silent
from tests import tiny


class Enough(Exception):
    """Ends a watch from within."""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setattr("hashcli.identity.RACY_NS", 0)
    monkeypatch.setattr(watching, "SETTLE_MS", 100)
    monkeypatch.setattr(watching, "POLL_MS", 50)
    tiny.decode_here(monkeypatch)
    for n in range(3):
        tiny.noise(tmp_path / "photos" / "mug" / f"{n}.png", n)
    library = Library.create(tmp_path / "photos" / "library")  # inside: what indexing writes must wake nobody
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(tmp_path / "photos", "tgt")])
    return library


class Says(Silent):
    """Does `then` when the watch has begun."""

    def __init__(self, then) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._then = then

    def say(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith("watching"):
            threading.Timer(0.3, self._then).start()


@pytest.mark.parametrize("kind", [None, "nfs4"])
def test_a_new_photo_is_indexed_by_events_or_by_looking(library, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(watching, "is_network_folder", lambda path: kind)
    rounds = []

    def run(folders):
        rounds.append((list(folders), index(library, folders, workers=1, progress=Silent())))
        if len(rounds) > 1:
            raise Enough

    new = tmp_path / "photos" / "mug" / "new.png"

    def appear():
        tiny.noise(tmp_path / "whole.png", 9).rename(new)  # at once: it must not be met half written
        for _ in range(600):  # a watch that began late sees it change
            if len(rounds) > 1:
                return
            time.sleep(0.5)
            os.utime(new)

    with pytest.raises(Enough):
        watching.watch(library, [], run, Says(appear))

    (_, first), (folders, second) = rounds
    assert (first.unchanged, first.added) == (3, 0)
    assert folders in ([new.parent], [new.parent.parent])  # its folder is new as well, and may be seen first
    assert (second.unchanged, second.added) == (3, 1)


def test_another_writer_is_waited_for(library, monkeypatch):
    monkeypatch.setattr(watching, "RETRY_SECONDS", 0)
    tries = iter([LockedError("busy"), LockedError("busy"), Enough()])
    progress = Says(None)

    def run(folders):
        raise next(tries)

    with pytest.raises(Enough):
        watching.watch(library, [], run, progress)
    assert progress.lines == ["busy; waiting"]


def test_changed_folders_are_the_nearest_that_are_there_and_none_inside_another(tmp_path):
    root = bytes(tmp_path / "root")
    (tmp_path / "root" / "a" / "b").mkdir(parents=True)
    (tmp_path / "root" / "c").mkdir()

    def changed(*paths: str) -> list[str]:
        found = watching.changed_folders([root + path.encode() for path in paths], [root], root + b"/library")
        return [folder[len(root) :].decode() for folder in found]

    assert changed("/a/b/1.jpg", "/a/2.jpg", "/c/3.jpg") == ["/a", "/c"]
    assert changed("/gone/deeper/1.jpg") == [""]
    assert changed("/c") == [""]
    assert changed("/library", "/library/lock") == []  # else indexing, which writes there, would wake itself
    assert watching.changed_folders([bytes(tmp_path / "elsewhere" / "1.jpg")], [root], b"/library") == []


def test_hidden_folders_that_change_are_left_out_unless_they_are_wanted(tmp_path):
    root = tmp_path / ".photos"
    (root / "a" / ".thumbnails" / "b").mkdir(parents=True)
    changed = [bytes(root / "a/.thumbnails/1.jpg"), bytes(root / "a/.thumbnails/b/2.jpg")]

    assert watching.changed_folders(changed, [bytes(root)], b"/library") == []
    assert watching.changed_folders(changed, [bytes(root)], b"/library", hidden=True) == [bytes(root / "a/.thumbnails")]
    inner = bytes(root / "a/.thumbnails")
    assert watching.changed_folders(changed, [bytes(root), inner], b"/library") == [inner]


def ran(library, monkeypatch, changed: Path, *words: str) -> set[str]:
    """The photos in the library after `index --watch` with these words, during which a folder changes."""

    def changing(opened, folders, index, progress, hidden):
        index(folders)
        index([changed])
        raise LockedError("enough")

    monkeypatch.setattr(watching, "watch", changing)
    assert cli.main(["index", "--watch", "-L", str(library.folder), *words]) == LockedError.exit_code
    return {f"{Path(path).name} {domain}" for path, (_, domain) in tiny.held(library.require()).items()}


def test_patterns_are_about_the_folders_named_and_not_about_what_changed(library, tmp_path, monkeypatch):
    tiny.noise(tmp_path / "photos" / "private" / "new.png", 9)
    photos = str(tmp_path / "photos")

    found = ran(library, monkeypatch, tmp_path / "photos" / "private", photos, "--exclude", "private*")
    assert found == {"0.png tgt", "1.png tgt", "2.png tgt"}


def test_a_folder_that_changed_keeps_its_domain(library, tmp_path, monkeypatch):
    tiny.noise(tmp_path / "more" / "inner" / "9.png", 9)
    index(library, [tmp_path / "more" / "inner"], domain="tgt", workers=1, progress=Silent())

    found = ran(library, monkeypatch, tmp_path / "more" / "inner", str(tmp_path / "more"), "--domain", "src")
    assert "9.png tgt" in found


def test_without_the_extra_the_message_names_it(library, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)

    with pytest.raises(MachineError, match="extra") as failure:
        watching.watch(library, [], index, Silent())
    assert failure.value.hint == "pip install 'hashcli[watch]'"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command(library, monkeypatch, capfd, number, code):
    monkeypatch.setattr(
        "hashcli.cli_output.talk", lambda quiet, verbose: Says(lambda: signal.pthread_kill(main, number))
    )
    main = threading.main_thread().ident

    assert cli.main(["index", "--watch", "-L", str(library.folder)]) == code
    assert "stopped" in capfd.readouterr().err
