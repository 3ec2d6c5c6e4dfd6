"""LMDB's file looked at without LMDB, which trusts what it maps: is it whole, and is it sound?"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

from hashcli.errors import DamagedError
from hashcli.seals import REPAIR, damaged, unreadable

# One of the two meta pages of LMDB 0.9 on a 64-bit machine: flags, magic, version, map size, page size, root of the
# main database, last page in use, transaction.
_META = struct.Struct("=10xH4xII8xQI84xQQQ")
_META_PAGE, _MAGIC, _NO_PAGE = 0x08, 0xBEEFC0DE, 2**64 - 1

_FILLED_UP_AFTER = (0.0, 0.01, 0.1)  # seconds that a writer may take from its commit to `fill_up`


def check_file(data: Path) -> None:
    """Raise DamagedError unless all that LMDB uses of its file is there.

    Reading a map behind the file's end kills a process.
    """
    for wait in _FILLED_UP_AFTER:
        time.sleep(wait)
        needed, length = _sizes(data)
        if length >= needed:
            return
    if structure(data) != []:  # else only free pages are missing: a writer was killed before it could fill up
        raise damaged(str(data), f"it was cut from {needed} to {length} bytes")


def fill_up(data: Path) -> None:
    """LMDB may leave pages at the end of its file unwritten; with zeros there, a shorter file is a cut one.

    They are appended: whatever another process writes meanwhile stays as it is.
    """
    needed, length = _sizes(data)
    if length < needed:
        with data.open("ab") as file:
            file.write(bytes(needed - length))


def structure(data: Path) -> list[str] | None:
    """What is wrong with LMDB's own pages; None where py-lmdb is older than 3 and cannot tell."""
    try:
        from lmdb.verify import VerifyError, verify
    except ImportError:
        return None
    try:
        return [f"{data}: {problem}" for problem in verify(str(data))]  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return [f"{data} is missing"]
    except VerifyError as error:
        return [f"{data}: {error}"]


def _sizes(data: Path) -> tuple[int, int]:
    """The bytes that LMDB says it uses, and those that are there. Raises DamagedError, LibraryError."""
    try:
        with data.open("rb") as file:
            page_size = _META.unpack(os.pread(file.fileno(), _META.size, 0))[4]
            metas = [_META.unpack(os.pread(file.fileno(), _META.size, at)) for at in (0, page_size)]
            length = os.fstat(file.fileno()).st_size  # last: LMDB writes pages first, and then what tells of them
    except FileNotFoundError:
        raise DamagedError(f"{data} is missing", REPAIR) from None
    except struct.error:
        raise damaged(str(data), "it is cut or no LMDB file") from None
    except OSError as error:
        raise unreadable(str(data), error) from error
    for flags, magic, version, _, size, _, _, _ in metas:
        if flags != _META_PAGE or magic != _MAGIC or version != 1 or size != page_size:
            raise damaged(str(data), "it is no LMDB file, or its first pages are lost")
    _, _, _, map_size, _, root, last_page, _ = max(metas, key=lambda meta: meta[7])
    needed = (last_page + 1) * page_size
    if needed > map_size or (root > last_page and root != _NO_PAGE):
        raise damaged(str(data), "its first pages contradict each other")
    return needed, length
