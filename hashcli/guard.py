"""What the system does to a process that reads a damaged map, as an error of ours.

LMDB believes what its pages say, and a file may shrink under its map: a process that reads behind the file's end is
ended with SIGBUS or SIGSEGV, and where LMDB doubts its pages, with SIGABRT. A command that is `reading` then ends
with a message and the exit code of damage. The code that was interrupted cannot go on, and nothing half done remains:
what was not committed never was.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hashcli.errors import DamagedError
from hashcli.seals import REPAIR

_reading: list[Path] = []
_handler: Any = None  # kept: C has no part in counting references
_wanted = False


def install() -> None:
    """Take these signals from the first `reading` on: for commands, not for programs that embed hashcli."""
    global _wanted
    _wanted = True


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Inside, files of `folder` are read that are mapped into memory."""
    if _wanted and _handler is None:
        _set_handlers()
    _reading.append(folder)
    try:
        yield
    finally:
        _reading.remove(folder)


def _set_handlers() -> None:
    """In C: a handler that Python sets runs after the instruction that was stopped, which never ends."""
    global _handler
    import ctypes

    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p

    def end(number: int) -> None:
        if not _reading:  # not ours: the instruction is tried again, and the process dies as it would have
            set_handler(number, None)
            return
        name = signal.Signals(number).name
        what = f"error: the files in {_reading[-1]} are damaged, or were cut while they were read ({name})"
        os.write(2, f"{what}\nhint: {REPAIR}\n".encode(errors="backslashreplace"))
        os._exit(DamagedError.exit_code)

    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT):
        set_handler(number, ctypes.cast(_handler, ctypes.c_void_p))
