"""Plain zip files of a few known members, read as if a stranger had made them."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from hashcli.errors import DamagedError

_CHUNK = 1 << 20


def pack(folder: Path, names: Sequence[str], path: Path) -> None:
    """Write the files `names` of `folder` to the zip file `path`, uncompressed, in place of what was there.

    Raises OSError; `path` is then as it was.
    """
    handle, fresh = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                archive.write(folder / name, name)
        os.chmod(fresh, 0o644)
        os.replace(fresh, path)
    finally:
        Path(fresh).unlink(missing_ok=True)


def unpack(path: Path, folder: Path, largest: Mapping[str, int]) -> list[str]:
    """Write the members of the zip file `path` to `folder`; their names.

    `largest` gives the names that may be in it, with the most bytes each may have. Raises OSError, and DamagedError
    for a file that is no zip, or holds anything that `pack` would not have written: nothing is then left outside
    `folder`, and no more than was allowed inside.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check(members, path, largest)
            for member in members:
                with archive.open(member) as source, open(folder / member.filename, "xb") as out:
                    _copy(source, out, member.file_size)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{path} cannot be read as a zip file: {error}") from None
    return [member.filename for member in members]


def _check(members: Sequence[zipfile.ZipInfo], path: Path, largest: Mapping[str, int]) -> None:
    names = [member.filename for member in members]
    strange = sorted(set(names) - set(largest))
    if strange or len(set(names)) < len(names):
        raise DamagedError(f"{path} holds {strange[0] if strange else 'a file twice'!r}, which no export holds")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise DamagedError(f"{member.filename} in {path} is compressed, which no export is")
        if member.file_size > largest[member.filename]:
            raise DamagedError(f"{member.filename} in {path} is larger than it may be: {member.file_size} bytes")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise DamagedError(f"{path} claims to hold more than its size")


def _copy(source: IO[bytes], out: IO[bytes], size: int) -> None:
    left = size
    while block := source.read(min(_CHUNK, left)):
        out.write(block)
        left -= len(block)
    if left:
        raise EOFError("a member is cut short")
