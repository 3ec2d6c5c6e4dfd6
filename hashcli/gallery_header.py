"""What a gallery says of itself: format, code length, hasher, slots of a block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from hashcli.errors import NewerFormatError
from hashcli.seals import damaged, seal, unseal

FORMAT, VERSION = "hashcli-gallery", 1
KEY = b"format"  # in the table "meta"


class Header(NamedTuple):
    """`n_bits` of each code, made by the hasher with `hasher_digest`, in blocks of `block_slots` slots."""

    n_bits: int
    hasher_digest: str
    block_slots: int


def encode(header: Header) -> bytes:
    """The header as LMDB value."""
    return seal(KEY, json.dumps({"format": FORMAT, "version": VERSION, **header._asdict()}).encode())


def decode(value: bytes | memoryview | None, folder: Path) -> Header:
    """The header of the gallery in `folder`, checked. Raises DamagedError, NewerFormatError."""
    what = f"the format of the gallery in {folder}"
    if value is None:
        raise damaged(what, "it is missing")
    try:
        header = json.loads(unseal(KEY, value, what))
    except ValueError:
        raise damaged(what, "it is no JSON") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT or type(header.get("version")) is not int:
        raise damaged(what, f"it is not {FORMAT}")
    if header["version"] > VERSION:
        raise NewerFormatError(
            f"{folder} has {FORMAT} {header['version']}; this hashcli reads up to {VERSION}", "upgrade hashcli"
        )
    kinds = {"n_bits": int, "hasher_digest": str, "block_slots": int}
    wrong = any(type(header.get(name)) is not kind for name, kind in kinds.items())
    if wrong or header["n_bits"] not in range(16, 1025, 8) or header["block_slots"] not in range(8, 2**20 + 1, 8):
        raise damaged(what, "its values cannot be")
    return Header(**{name: header[name] for name in kinds})
