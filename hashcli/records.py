"""What a gallery knows about a photo beside its code, and the sealed bytes that this becomes."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from hashcli.seals import LARGEST, SOUND, damaged, seal, unseal

Domain = Literal["src", "tgt"]
DOMAINS: tuple[Domain, Domain] = ("src", "tgt")

_SLOT = struct.Struct(">Q")
_ROOT = struct.Struct(">I")
_RECORD = struct.Struct("<4sIQq16sBHH")  # stamp, root, size, mtime_ns, digest, flags, bytes of path, bytes of label
_STAMP = 4
_TARGET, _LABELED = 1, 2
_BY_TABLE = 2  # of a root
_LONGEST_KEY = 480  # LMDB's keys end at 511 bytes


@dataclass(frozen=True)
class Root:
    """A folder that was indexed.

    by_folder  new photos of a `src` root are labeled by their first-level subfolder; else a table gave the labels
    """

    id: int
    path: bytes  # absolute
    domain: Domain
    by_folder: bool = True


@dataclass(frozen=True)
class Record:
    """One photo."""

    root: int
    path: bytes  # relative to the root
    size: int
    mtime_ns: int
    digest: bytes  # 16 bytes
    label: str | None
    domain: Domain


def slot_key(slot: int) -> bytes:
    """LMDB key of a slot; keys sort as slots do."""
    return _SLOT.pack(slot)


def path_key(root: int, path: bytes) -> bytes:
    """LMDB key of a path: itself, or for a very long one its beginning and a digest."""
    if len(path) > _LONGEST_KEY:
        path = path[: _LONGEST_KEY - 16] + b"\0" + blake2b(path, digest_size=16).digest()
    return _ROOT.pack(root) + path


def root_key(root: int) -> bytes:
    """LMDB key of a root."""
    return _ROOT.pack(root)


def encode_record(slot: int, record: Record, stamp: bytes) -> bytes:
    """A record with a stamp of four bytes as the sealed value of its slot.

    Raises ValueError for one that cannot be stored.
    """
    if not record.path or len(record.path) > 0xFFFF or b"\0" in record.path:
        raise ValueError(f"a path must have 1 to 65535 bytes and no NUL: {record.path[:80]!r}")
    if len(record.digest) != 16:
        raise ValueError(f"a digest must have 16 bytes, not {len(record.digest)}")
    flags = _TARGET * DOMAINS.index(record.domain)
    label = b""
    if record.label is not None:
        flags |= _LABELED
        label = record.label.encode("utf-8", "surrogateescape")
        if len(label) > 0xFFFF:
            raise ValueError(f"a label must have at most 65535 bytes, not {len(label)}")
    head = _RECORD.pack(
        stamp, record.root, record.size, record.mtime_ns, record.digest, flags, len(record.path), len(label)
    )
    return seal(_SLOT.pack(slot), head + record.path + label)


def decode_record(slot: int, value: bytes | memoryview) -> Record:
    """What `encode_record` wrote. Raises DamagedError naming the slot."""
    what = f"the record of slot {slot}"
    payload = unseal(_SLOT.pack(slot), value, what)
    if len(payload) < _RECORD.size:
        raise damaged(what, "its lengths do not fit")
    _, root, size, mtime_ns, digest, flags, path_size, label_size = _RECORD.unpack_from(payload)
    label_start = _RECORD.size + path_size
    if len(payload) != label_start + label_size or flags & ~(_TARGET | _LABELED):
        raise damaged(what, "its lengths do not fit")
    label = payload[label_start:].decode("utf-8", "surrogateescape") if flags & _LABELED else None
    path = payload[_RECORD.size : label_start]
    return Record(root, path, size, mtime_ns, digest, label, DOMAINS[flags & _TARGET])


def decode_path(slot: int, value: bytes | memoryview) -> tuple[int, bytes]:
    """Root and path of what `encode_record` wrote; much quicker than all of it. Raises DamagedError."""
    if not _RECORD.size + 4 <= len(value) <= LARGEST or zlib.crc32(value, zlib.crc32(_SLOT.pack(slot))) != SOUND:
        raise damaged(f"the record of slot {slot}", "it is not what was written")
    _, root, _, _, _, _, path_size, _ = _RECORD.unpack_from(value)
    return root, bytes(value[_RECORD.size : _RECORD.size + path_size])


def stamp_of(value: bytes | memoryview) -> bytes:
    """The stamp of a sealed record, which is not looked at otherwise."""
    return bytes(value[:_STAMP])


def restamped(slot: int, value: bytes | memoryview, stamp: bytes) -> bytes:
    """A sealed record with another stamp. Raises DamagedError naming the slot."""
    payload = unseal(_SLOT.pack(slot), value, f"the record of slot {slot}")
    return seal(_SLOT.pack(slot), stamp + payload[_STAMP:])


def encode_root(root: Root) -> bytes:
    """A root as a sealed value."""
    flags = _TARGET * DOMAINS.index(root.domain) | _BY_TABLE * (not root.by_folder)
    return seal(root_key(root.id), bytes([flags]) + root.path)


def decode_root(key: bytes, value: bytes | memoryview) -> Root:
    """What `encode_root` wrote. Raises DamagedError."""
    payload = unseal(key, value, "the list of roots")
    if len(key) != _ROOT.size or not payload or payload[0] & ~(_TARGET | _BY_TABLE):
        raise damaged("the list of roots", "its lengths do not fit")
    flags = payload[0]
    return Root(_ROOT.unpack(key)[0], payload[1:], DOMAINS[flags & _TARGET], not flags & _BY_TABLE)
