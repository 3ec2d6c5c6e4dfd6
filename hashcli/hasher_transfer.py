"""A hasher as one zip file, to take to another machine; what comes back may be a stranger's."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hashcli import archive, hasher_record, onnx_check
from hashcli.backbones import FILE_NAME
from hashcli.errors import MachineError, UsageError
from hashcli.hasher import HEAD, RECORD, SEEN, TEXT_HEAD, TOWER, VOCABULARY, Hasher
from hashcli.onnx_probe import probe

LARGEST = {
    RECORD: hasher_record.MAX_JSON,
    VOCABULARY: hasher_record.MAX_JSON,
    SEEN: 1 << 30,
    **dict.fromkeys((FILE_NAME, HEAD, TEXT_HEAD, TOWER), onnx_check.MAX_BYTES),
}


def export(hasher: Hasher, path: Path) -> None:
    """Write the hasher as the zip file `path`, in place of what was there.

    Raises DamagedError when the hasher is not whole, MachineError when `path` cannot be written.
    """
    hasher.verify()
    try:
        archive.pack(hasher.folder, [RECORD, *hasher.record["files"]], path)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from error


def import_from(path: Path, folder: Path) -> Hasher:
    """Take the hasher in the zip file `path` to `folder`, which must not exist yet.

    Its record, hashes and graphs are checked and its graphs tried before `folder` appears. Raises UsageError when
    `path` cannot be read, DamagedError, NewerFormatError, LibraryError, MachineError.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    try:
        with tempfile.TemporaryDirectory(prefix=".import-", dir=folder.parent) as scratch:
            part = Path(scratch, "hasher")
            part.mkdir()
            archive.unpack(path, part, LARGEST)
            hasher = Hasher.open(part)
            hasher.verify()
            probe([part / name for name in hasher.record["files"] if name.endswith(".onnx")])
            part.rename(folder)
    except OSError as error:
        raise MachineError(f"cannot import {path} to {folder}: {error.strerror}") from error
    return Hasher.open(folder)
