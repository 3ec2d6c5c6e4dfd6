"""Photos as files: finding them, telling what they are, reading them safely, showing their names.

Paths are bytes, as the kernel has them. `decode` and `PhotoError` come from `hashcli.pixels`.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import importlib.util
import mmap
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from hashcli.pixels import DECODE_RULE, MAX_PIXELS, Data, Fit, PhotoError, decode

__all__ = [
    "DECODE_RULE", "DIGEST_SIZE", "MAX_BYTES", "MAX_PIXELS", "Data", "Fit", "PhotoError", "PhotoFile", "Problem",
    "decode", "digest", "escape", "read", "stat_photo", "unescape", "walk",
]  # fmt: skip

MAX_BYTES = 4 << 30
DIGEST_SIZE = 16
_MAP_ABOVE = 64 << 20

EXTENSIONS = frozenset(
    b"jpg jpeg jpe jfif mpo png apng webp tif tiff gif bmp dib avif avifs jp2 j2k jpx ppm pgm pbm pnm "
    b"ico qoi dds sgi pcx tga heic heif hif".split()
)
_HEIF_EXTENSIONS = frozenset([b"heic", b"heif", b"hif"])
# JPEG, PNG, GIF, WebP, TIFF, AVIF/HEIC: what a file without any extension must begin with to be a photo
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....WEBP|II\*\0|MM\0\*|....ftyp(avi|hei|mif)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """One photo file as a stat saw it: `path` is relative to `root`, times in ns."""

    root: bytes
    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @property
    def full(self) -> bytes:
        """The path to open."""
        return os.path.join(self.root, self.path)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something met on a walk that cannot be used: `path` to open it by, and why not."""

    path: bytes
    reason: str


def walk(
    root: bytes,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    hidden: bool = False,
    follow_symlinks: bool = False,
) -> Iterator[PhotoFile | Problem]:
    """The photos under `root`, in the byte order of their paths.

    A photo is what is named like one; a file without an extension is looked into. `include` and `exclude` are
    fnmatch patterns on the path relative to `root` (`*` also spans `/`); a folder that `exclude` matches is not
    entered. `hidden` also takes names that begin with a dot. Symbolic links to files count as files, those to
    folders are entered only with `follow_symlinks`; no folder is entered twice. Nothing but folders and plain
    files is ever opened; a photo name on anything else, and what cannot be listed, becomes a `Problem`.
    """
    included, excluded = [os.fsencode(p) for p in include], [os.fsencode(p) for p in exclude]
    seen: set[tuple[int, int]] = set()
    todo: list[tuple[bytes, os.DirEntry[bytes] | None]] = [(b"", None)]  # None: a folder
    while todo:
        path, entry = todo.pop()
        if path and any(fnmatch.fnmatchcase(path, pattern) for pattern in excluded):
            continue
        if entry is None:
            try:
                todo += reversed(_listed(root, path, hidden, follow_symlinks, seen))
            except OSError as error:
                yield Problem(os.path.join(root, path) if path else root, f"folder: {_why(error)}")
        elif not included or any(fnmatch.fnmatchcase(path, pattern) for pattern in included):
            found = _photo(root, path, entry)
            if found is not None:
                yield found


def _listed(
    root: bytes, path: bytes, hidden: bool, follow_symlinks: bool, seen: set[tuple[int, int]]
) -> list[tuple[bytes, os.DirEntry[bytes] | None]]:
    """Entries of one folder in path order; folders are marked by None. Empty if the folder was seen before."""
    folder = os.path.join(root, path) if path else root
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    listed: list[tuple[bytes, bytes, os.DirEntry[bytes] | None]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b".") and not hidden:
                continue
            name = os.path.join(path, entry.name) if path else entry.name
            if not _is_folder(entry):
                listed.append((entry.name, name, entry))
            elif follow_symlinks or not entry.is_symlink():
                # sorted as the paths below it will be: "a.jpg" comes before "a/b.jpg"
                listed.append((entry.name + b"/", name, None))
    listed.sort(key=lambda item: item[0])
    return [(name, entry) for _, name, entry in listed]


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop, a folder that may be listed but not searched
        return False


def _photo(root: bytes, path: bytes, entry: os.DirEntry[bytes]) -> PhotoFile | Problem | None:
    """What a directory entry is: a photo, a problem with one, or nothing to do with photos (None)."""
    stem, dot, ending = entry.name.rpartition(b".")
    extension = ending.strip().lower() if dot and stem else b""
    if extension not in EXTENSIONS and extension:
        return None
    try:
        photo = _described(entry.stat(), root, path)
        if not extension:
            with _opened(photo.full) as file:
                return photo if _MAGIC.match(file.read(16)) else None
    except (OSError, PhotoError) as error:
        if not extension:
            return None
        return Problem(os.path.join(root, path), error.reason if isinstance(error, PhotoError) else _why(error))
    if extension in _HEIF_EXTENSIONS and not _reads_heif():
        return Problem(photo.full, "is HEIC: needs pillow-heif")
    return photo


@functools.cache
def _reads_heif() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def stat_photo(full: bytes, root: bytes) -> PhotoFile:
    """The file at `full` as it is now; its `path` is relative to `root` if it lies below. Raises PhotoError."""
    above = os.path.join(root, b"")
    below = bool(root) and full.startswith(above)
    path = full[len(above) :] if below else os.path.join(os.getcwdb(), full)
    try:
        return _described(os.stat(full), root, path)
    except OSError as error:
        raise PhotoError(_why(error)) from error


def _described(status: os.stat_result, root: bytes, path: bytes) -> PhotoFile:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
        raise PhotoError(f"is not a plain file but a {kinds.get(stat.S_IFMT(status.st_mode), 'device')}")
    return PhotoFile(root, path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


@contextmanager
def _opened(full: bytes) -> Iterator[BinaryIO]:
    """Open a plain file and nothing else, even when it is being replaced by a FIFO this very moment."""
    _described(os.stat(full), b"", full)  # opening alone can move a tape
    descriptor = os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        _described(os.fstat(descriptor), b"", full)
        yield file


def read(file: PhotoFile, max_bytes: int = MAX_BYTES) -> Data:
    """The contents of a photo; those of a large file as a map, which is read from disk as it is used.

    Raises PhotoError for anything but a plain file of at most `max_bytes`, for what the system refuses, and
    for a file that changes while it is read (a map shows such changes).
    """
    try:
        with _opened(file.full) as stream:
            before = os.fstat(stream.fileno())
            if before.st_size > max_bytes:
                raise PhotoError(f"is {before.st_size / 1e6:.0f} MB large, more than {max_bytes / 1e6:.0f} MB")
            if before.st_size > _MAP_ABOVE:
                return mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ)
            data = stream.read()
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise PhotoError(_why(error)) from error
    if len(data) != after.st_size or _described(before, b"", b"") != _described(after, b"", b""):
        raise PhotoError("changed while it was read")
    return data


def digest(data: Data) -> bytes:
    """What identifies a photo's contents: BLAKE2b of 16 bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_SIZE).digest()


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
