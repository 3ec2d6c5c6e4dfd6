"""Finding the photos below a folder: folder by folder, with what a stat says of each, and without opening any."""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
import os
import re
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import attrgetter

from hashcli.errors import UsageError
from hashcli.photos import PhotoError, PhotoFile, described, open_plain, why

EXTENSIONS = frozenset(
    b"jpg jpeg jpe jfif mpo png apng webp tif tiff gif bmp dib avif avifs jp2 j2k jpx ppm pgm pbm pnm "
    b"ico qoi dds sgi pcx tga".split()
)
# Extensions that take a package of its own -> the extra of hashcli that brings it
NEEDS = dict.fromkeys(b"heic heif hif".split(), "heic") | dict.fromkeys(
    b"3fr arw cr2 cr3 dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f".split(), "raw"
)
PACKAGES = {"heic": "pillow_heif", "raw": "rawpy"}
# JPEG, PNG, GIF, WebP, TIFF, AVIF/HEIC: what a file without any extension must begin with to be a photo
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....WEBP|II\*\0|MM\0\*|....ftyp(avi|hei|mif)", re.DOTALL)
_DOT = ord(".")
_NUMBERS = 4  # of each photo in `Folder.stats`


@dataclass(frozen=True, slots=True)
class Problem:
    """Something met on a walk that cannot be used: `path` to open it by, and why not.

    extra   what of hashcli to install so that it can be
    """

    path: bytes
    reason: str
    extra: str | None = None


class NothingReadError(UsageError):
    """Not one photo can be used; `problems` says why of each."""

    def __init__(self, message: str, hint: str | None, problems: Sequence[Problem]) -> None:
        super().__init__(message, hint)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class WalkOptions:
    """Which files below a folder count as photos of it.

    include, exclude   fnmatch patterns on the path below the folder (`*` also spans `/`); a folder that `exclude`
                       matches is not entered
    hidden             also names that begin with a dot
    follow_symlinks    also enter folders that symbolic links lead to; links to files count as files always
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    follow_symlinks: bool = False


@dataclass(slots=True)
class Folder:
    """One folder's entries that are photos by their names, sorted; `path` is relative to `root`.

    stats      size, mtime_ns, ctime_ns and inode of each name, one after the other
    links      the names that are symbolic links; `linked` when one leads to the folder itself
    problems   what is named like a photo and is none that can be opened
    """

    root: bytes
    path: bytes
    linked: bool
    names: list[bytes] = field(default_factory=list)
    stats: list[int] = field(default_factory=list)
    links: set[bytes] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    @property
    def full(self) -> bytes:
        """The path to open."""
        return os.path.join(self.root, self.path) if self.path else self.root

    def digest(self) -> bytes:
        """16 bytes that any change to a photo here changes."""
        try:
            numbers = array("q", self.stats).tobytes()
        except OverflowError:  # inodes of some network file systems
            numbers = repr(self.stats).encode()
        return blake2b(b"/".join(self.names) + b"//" + numbers, digest_size=16).digest()

    def photos(self) -> Iterator[PhotoFile | Problem]:
        """The photos; files without an extension are looked into now."""
        yield from self.problems
        prefix = os.path.join(self.path, b"") if self.path else b""
        for place, name in enumerate(self.names):
            size, mtime_ns, ctime_ns, inode = self.stats[place * _NUMBERS : (place + 1) * _NUMBERS]
            linked = self.linked or name in self.links
            photo = PhotoFile(self.root, prefix + name, size, mtime_ns, ctime_ns, inode, linked)
            extension = _extension(name)
            if not extension and not _looks_like_one(photo):
                continue
            extra = NEEDS.get(extension)
            yield photo if extra is None or _is_there(extra) else Problem(photo.full, f"needs hashcli[{extra}]", extra)


def walk(root: bytes, options: WalkOptions | None = None) -> list[PhotoFile | Problem]:
    """All photos and problems under `root`, in the byte order of their paths, as `folders` finds them."""
    found = [item for folder in folders(root, options or WalkOptions()) for item in folder.photos()]
    return sorted(found, key=lambda item: item.full if isinstance(item, PhotoFile) else item.path)


def folders(root: bytes, options: WalkOptions) -> Iterator[Folder]:
    """`root` and the folders below it, each before those in it.

    A photo is what is named like one; a file without an extension is looked into. No folder is entered twice.
    Nothing but folders and plain files is ever opened; a photo name on anything else, and what cannot be listed,
    becomes a `Problem`.
    """
    walker = _Walker(options)
    todo = [Folder(root, b"", False)]
    while todo:
        folder = todo.pop()
        try:
            todo += reversed(walker.list(folder))
        except OSError as error:
            folder.problems.append(Problem(folder.full, f"folder: {why(error)}"))
        yield folder


class _Walker:
    def __init__(self, options: WalkOptions) -> None:
        self._hidden, self._follow = options.hidden, options.follow_symlinks
        self._included, self._excluded = _matcher(options.include), _matcher(options.exclude)
        self._seen: set[tuple[int, int]] = set()

    def list(self, folder: Folder) -> list[Folder]:
        """Fill in what is in the folder, nothing if it was seen before -> the folders in it."""
        full = folder.full
        status = os.stat(full)
        if (status.st_dev, status.st_ino) in self._seen:
            return []
        self._seen.add((status.st_dev, status.st_ino))
        prefix = os.path.join(folder.path, b"") if folder.path else b""
        below: list[Folder] = []
        with os.scandir(full) as entries:
            listed = sorted(entries, key=attrgetter("name"))
        names, stats = folder.names, folder.stats
        picky = self._excluded or self._included
        for entry in listed:
            name = entry.name
            if name[0] == _DOT and not self._hidden:
                continue
            # nearly all of a large collection goes this way, so it must cost little more than the stat
            if name[name.rfind(b".") + 1 :] in EXTENSIONS and not picky and entry.is_file(follow_symlinks=False):
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    folder.problems.append(Problem(os.path.join(full, name), why(error)))
                    continue
                names.append(name)
                stats += (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            elif _is_folder(entry):
                linked = entry.is_symlink()
                if (self._follow or not linked) and not (self._excluded and self._excluded(prefix + name)):
                    below.append(Folder(folder.root, prefix + name, folder.linked or linked))
            elif _may_be_photo(name):
                path = prefix + name
                if (self._excluded and self._excluded(path)) or (self._included and not self._included(path)):
                    continue
                self._note(entry, folder)
        return below

    def _note(self, entry: os.DirEntry[bytes], folder: Folder) -> None:
        name = entry.name
        try:
            status = entry.stat()
            if not stat.S_ISREG(status.st_mode):
                described(status, b"", name)
        except (OSError, PhotoError) as error:
            if _extension(name):  # else nothing to do with photos
                reason = error.reason if isinstance(error, PhotoError) else why(error)
                folder.problems.append(Problem(os.path.join(folder.full, name), reason))
            return
        folder.names.append(name)
        folder.stats += (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        if entry.is_symlink():
            folder.links.add(name)


def _matcher(patterns: Iterable[str]) -> functools.partial[bool] | None:
    """Whether a path matches one of the patterns; None when there is none."""
    compiled = [os.fsencode(pattern) for pattern in patterns]
    return functools.partial(_matches, compiled) if compiled else None


def _matches(patterns: list[bytes], path: bytes) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a loop, a folder that may be listed but not searched
        return False


def _may_be_photo(name: bytes) -> bool:
    ending = name[name.rfind(b".") + 1 :]
    return ending in EXTENSIONS or not (extension := _extension(name)) or extension in EXTENSIONS or extension in NEEDS


def _extension(name: bytes) -> bytes:
    """What stands behind the last dot, in lower case; empty for names without one, or with one in front alone."""
    stem, dot, ending = name.rpartition(b".")
    return ending.strip().lower() if dot and stem else b""


def _looks_like_one(photo: PhotoFile) -> bool:
    try:
        with open_plain(photo.full) as file:
            return _MAGIC.match(file.read(16)) is not None
    except (OSError, PhotoError):
        return False


@functools.cache
def _is_there(extra: str) -> bool:
    return importlib.util.find_spec(PACKAGES[extra]) is not None
