"""hasher.json: read and checked, sealed against change, and the state of the files that it lists."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hashcli import versions
from hashcli.errors import DamagedError
from hashcli.seals import unreadable

FORMAT, VERSION = "hashcli-hasher", 1
MAX_JSON = 64 << 20
GO_BACK = "`hashcli library rollback` goes back"

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "method": str, "package": str, "package_version": str, "settings": dict, "n_bits": int, "seed": int,
    "threads": int, "device": str, "centering": str, "classes": list, "backbone": dict, "text_dim": (int, type(None)),
    "log": list, "created": str, "hashcli": str, "files": dict,
}  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    """A whole record, of this format, with all its fields. Raises DamagedError, NewerFormatError."""
    record = read_json(path)
    versions.check(record, FORMAT, VERSION, str(path), "a hasher")
    if record.get("digest") != seal(record):
        raise not_written(path)
    for name, kind in _FIELDS.items():
        if name not in record or not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise DamagedError(f"{path} is damaged: {name} is {record.get(name)!r}"[:300])
    if not all(isinstance(state, dict) for state in record["files"].values()):
        raise DamagedError(f"{path} is damaged: files")
    return record


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most `MAX_JSON` bytes. Raises LibraryError, DamagedError."""
    try:
        if size(path) > MAX_JSON:
            raise DamagedError(f"{path} is larger than hashcli writes it")
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise unreadable(str(path), error, GO_BACK) from None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise DamagedError(f"{path} is not JSON as hashcli writes it", GO_BACK)
    return record


def seal(record: dict[str, Any]) -> str:
    """SHA-256 (hex) of all of the record but its `digest`."""
    sealed = {name: value for name, value in record.items() if name != "digest"}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def state(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as the record lists them. Raises LibraryError, DamagedError when it cannot be."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": size(path), "sha256": digest}
    except OSError as error:
        raise unreadable(str(path), error, GO_BACK) from None


def size(path: Path) -> int:
    """Bytes of a file. Raises LibraryError, DamagedError when it cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(str(path), error, GO_BACK) from None


def not_written(path: Path) -> DamagedError:
    """What to raise for a file that is not what the record says."""
    return DamagedError(f"{path} is not the file that was written", GO_BACK)
