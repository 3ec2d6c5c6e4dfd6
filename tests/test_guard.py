"""A map that is cut or damaged under a command ends it with a message, and anything else as it always would."""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from hashcli import guard

PAGES = 16


def ended(folder: Path, work: Callable[[mmap.mmap], object], guarded: bool) -> tuple[int, str]:
    """Exit code and stderr of a forked process that does `work` on a map whose file is cut under it."""
    (folder / "file").write_bytes(bytes(PAGES * mmap.PAGESIZE))
    said = folder / "said"
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()  # which also takes away what another test had guard set
            guard._handler = None
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            guard.install()
            with guard.reading(folder):  # so that the handlers are there
                pass
            with open(folder / "file", "r+b") as file:
                mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                os.truncate(folder / "file", 0)
                with guard.reading(folder) if guarded else nullcontext():
                    work(mapped)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text()


@pytest.mark.parametrize(
    "work, name",
    [
        pytest.param(lambda mapped: mapped[5000], "SIGBUS", id="a byte"),
        pytest.param(lambda mapped: zlib.crc32(mapped), "SIGBUS", id="without the interpreter's lock"),
        pytest.param(lambda mapped: os.kill(os.getpid(), signal.SIGABRT), "SIGABRT", id="LMDB gives up"),
        pytest.param(lambda mapped: os.kill(os.getpid(), signal.SIGSEGV), "SIGSEGV", id="behind the map"),
    ],
)
def test_a_command_that_reads_ends_with_a_message_and_the_code_of_damage(tmp_path, work, name):
    code, said = ended(tmp_path, work, guarded=True)
    assert code == 4
    assert f"error: the files in {tmp_path} are damaged" in said and name in said
    assert "hint: `hashcli library repair`" in said


def test_whatever_else_crashes_is_not_called_damage(tmp_path):
    assert ended(tmp_path, lambda mapped: mapped[5000], guarded=False) == (-signal.SIGBUS, "")


def test_programs_that_embed_hashcli_keep_their_own_handlers(monkeypatch):
    monkeypatch.setattr(guard, "_wanted", False)
    monkeypatch.setattr(guard, "_handler", None)
    with guard.reading(Path()):
        assert guard._handler is None
