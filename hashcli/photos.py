"""Photos as files: what a stat says of them, reading them safely, showing their names.

Paths are bytes, as the kernel has them. `decode` and `PhotoError` come from `hashcli.pixels`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from hashcli.pixels import DECODE_RULE, MAX_PIXELS, Data, Fit, PhotoError, decode

__all__ = [
    "DECODE_RULE", "DIGEST_SIZE", "MAX_BYTES", "MAX_PIXELS", "Data", "Fit", "PhotoError", "PhotoFile",
    "decode", "described", "digest", "escape", "open_plain", "read", "stat_photo", "unescape", "why",
]  # fmt: skip

MAX_BYTES = 4 << 30
DIGEST_SIZE = 16
_MAP_ABOVE = 64 << 20


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """One photo file as a stat saw it: `path` is relative to `root`, times in ns.

    linked  the path leads over a symbolic link: it is not the file's own name (a hard link is one)
    """

    root: bytes
    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    linked: bool = False

    @property
    def full(self) -> bytes:
        """The path to open."""
        return os.path.join(self.root, self.path)


def stat_photo(full: bytes, root: bytes) -> PhotoFile:
    """The file at `full` as it is now; its `path` is relative to `root` if it lies below. Raises PhotoError."""
    above = os.path.join(root, b"")
    below = bool(root) and full.startswith(above)
    path = full[len(above) :] if below else os.path.join(os.getcwdb(), full)
    try:
        return described(os.stat(full), root, path)
    except OSError as error:
        raise PhotoError(why(error)) from error


def described(status: os.stat_result, root: bytes, path: bytes) -> PhotoFile:
    """A file by its stat. Raises PhotoError when it is no plain file."""
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
        raise PhotoError(f"is not a plain file but a {kinds.get(stat.S_IFMT(status.st_mode), 'device')}")
    return PhotoFile(root, path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def why(error: OSError) -> str:
    """The system's words, as a reason."""
    return (error.strerror or type(error).__name__).lower()


@contextmanager
def open_plain(full: bytes) -> Iterator[BinaryIO]:
    """Open a plain file and nothing else, even when it is being replaced by a FIFO this very moment."""
    described(os.stat(full), b"", full)  # opening alone can move a tape
    descriptor = os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        described(os.fstat(descriptor), b"", full)
        yield file


def read(file: PhotoFile, max_bytes: int = MAX_BYTES) -> Data:
    """The contents of a photo; those of a large file as a map, which is read from disk as it is used.

    Raises PhotoError for anything but a plain file of at most `max_bytes`, for what the system refuses, and
    for a file that changes while it is read (a map shows such changes).
    """
    try:
        with open_plain(file.full) as stream:
            before = os.fstat(stream.fileno())
            if before.st_size > max_bytes:
                raise PhotoError(f"is {before.st_size / 1e6:.0f} MB large, more than {max_bytes / 1e6:.0f} MB")
            if before.st_size > _MAP_ABOVE:
                return mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
            data = stream.read()
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise PhotoError(why(error)) from error
    if len(data) != after.st_size or described(before, b"", b"") != described(after, b"", b""):
        raise PhotoError("changed while it was read")
    return data


def digest(data: Data) -> bytes:
    """What identifies a photo's contents: the first 16 bytes of SHA-256.

    Processors have instructions for it: of a large photo, BLAKE2b took a tenth of the time that decoding takes.
    """
    return hashlib.sha256(data).digest()[:DIGEST_SIZE]


_NAMED = {"\t": "\\t", "\n": "\\n", "\\": "\\\\"}
_UNNAMED = {"\\t": b"\t", "\\n": b"\n", "\\\\": b"\\"}
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|[tn\\])")


def escape(path: bytes) -> str:
    r"""`path` as text that does a terminal no harm; `unescape` gives the bytes back.

    Tab, newline and backslash become \t \n \\; bytes that are not UTF-8, control characters, invisible format
    characters (also those that turn the writing direction) and line separators become \xNN, byte by byte.
    """
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:  # which is nearly always
        return text
    return "".join(_NAMED.get(c) or (c if _harmless(c) else _hex(c)) for c in text)


def _harmless(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _hex(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def unescape(text: str) -> bytes:
    """The path that `escape` showed as `text`."""
    pieces, end = [], 0
    for match in _ESCAPE.finditer(text):
        code = match[0]
        pieces += [
            text[end : match.start()].encode("utf-8", "surrogateescape"),
            _UNNAMED.get(code) or bytes([int(code[2:], 16)]),
        ]
        end = match.end()
    return b"".join([*pieces, text[end:].encode("utf-8", "surrogateescape")])
