"""What is in the folders now; those that are just as the last run left them are passed over at the speed of a stat.

When all photos of a folder are in the gallery as they are, and their features cached, their number and a digest of
names and stats are kept (`identity`), together with the state of gallery and features. As long as nobody else has
changed these, a folder that gives the same digest needs no look at any of its photos.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from hashcli.carrying import blocks
from hashcli.photos import PhotoFile
from hashcli.records import DOMAINS
from hashcli.roots import Roots, relative
from hashcli.targets import Target, nearest
from hashcli.walking import Folder, Problem, WalkOptions, folders

if TYPE_CHECKING:
    from hashcli.generation import Generation
    from hashcli.library import Library
    from hashcli.records import Root

FOLDERS_AT_ONCE = 256
_NUMBER = 4  # bytes of a number of photos


@dataclass
class Visited:
    """A folder that was looked into: `unsettled` of its photos are not known to be in the gallery as they are."""

    full: bytes
    digest: bytes
    photos: int = 0
    unsettled: int = 0

    def settled(self) -> bytes | None:
        """What to keep of it; the number, because not every file without an extension is a photo."""
        return None if self.unsettled else self.digest + self.photos.to_bytes(_NUMBER, "big")


class Sighting(NamedTuple):
    """A photo that was met: the root it belongs to, and the folder it is in."""

    file: PhotoFile
    root: Root
    folder: Visited


class Survey:
    """One run's walk through its targets.

    problems   what cannot be used;  n_settled: photos that were passed over, because they are as they were
    """

    def __init__(
        self,
        library: Library,
        generation: Generation,
        roots: Roots,
        targets: Sequence[Target],
        options: WalkOptions,
        before: bytes,
        look_closely: bool,
    ) -> None:
        """`before`: the `state` that this run met; `look_closely`: pass nothing over."""
        self.problems: list[Problem] = []
        self.n_settled = 0
        self._library, self._generation, self._roots = library, generation, roots
        self._targets, self._options = targets, options
        self._before, self._look_closely = before, look_closely
        self._visited: list[Visited] = []
        self._left: set[bytes] = set()
        self._links: list[tuple[PhotoFile, Root]] = []  # photos that were met under another name than their own
        self._met: set[int] = set()  # photos that were met under their own name, as `_fingerprint`s

    def photos(self, target: Target, passed: Callable[[int], None]) -> Iterator[Sighting]:
        """The photos of this target that need a look; `passed` is told how many others there were."""
        for block in blocks(folders(target.path, self._options), FOLDERS_AT_ONCE):
            known = self._settled([folder.full for folder in block])
            for folder, settled in zip(block, known, strict=True):
                inner = os.path.join(folder.full, b"*")
                self.problems += folder.problems
                if nearest(self._targets, inner) != target:
                    continue  # found from there
                root = self._roots.owner(inner) or target.root
                digest = _digest(folder, root)
                if settled and digest == settled[:-_NUMBER]:
                    photos = int.from_bytes(settled[-_NUMBER:], "big")
                    self.n_settled += photos
                    passed(photos)
                else:
                    yield from self._looked_into(folder, root, Visited(folder.full, digest))

    def _looked_into(self, folder: Folder, root: Root, visited: Visited) -> Iterator[Sighting]:
        if not self._look_closely:
            self._visited.append(visited)
        for item in folder.photos():
            if isinstance(item, Problem):
                if item not in folder.problems:
                    self.problems.append(item)
                visited.unsettled += 1
                continue
            if root.path != item.root:
                item = PhotoFile(
                    root.path, relative(item.full, root.path), item.size, item.mtime_ns, item.ctime_ns, item.inode,
                    item.linked,
                )  # fmt: skip
            if item.linked:
                visited.unsettled += 1
                self._links.append((item, root))
                continue
            visited.photos += 1
            visited.unsettled += 1
            self._met.add(_fingerprint(item))
            yield Sighting(item, root, visited)

    def links_elsewhere(self) -> Iterator[Sighting]:
        """Of the links those to photos that are neither met nor held under their own name, each photo once."""
        seen: set[bytes] = set()
        for file, root in self._links:
            real = os.path.realpath(file.full)
            if real not in seen and _fingerprint(file) not in self._met and self._roots.slot_of(real) is None:
                seen.add(real)
                yield Sighting(file, root, Visited(b"", b""))

    def left(self, full: bytes) -> None:
        """Be told of a photo that left the gallery or its place there: its folder may come back just as it was."""
        self._left.add(os.path.dirname(full))

    def finish(self) -> None:
        """Keep which folders are settled, for the next run; to be called when all is stored."""
        after = state(self._library, self._generation)
        changed: dict[bytes, bytes | None] = dict.fromkeys(self._left)
        changed |= {visited.full: visited.settled() for visited in self._visited}
        if after != self._before or changed:
            with self._library.identity() as identity:
                identity.put_settled(changed, self._before, after)

    def _settled(self, names: Sequence[bytes]) -> list[bytes | None]:
        if self._look_closely:
            return [None] * len(names)
        with self._library.identity() as identity:
            return identity.settled(names, self._before)


def state(library: Library, generation: Generation) -> bytes:
    """16 bytes that change with the gallery, and with the features of its backbone."""
    counter = (generation.folder / "gallery" / "counter").read_bytes()
    with library.features(generation.hasher.spec) as cache:
        parts = [generation.name.encode(), generation.hasher.digest.encode(), counter, cache.state()]
    return blake2b(b"".join(parts), digest_size=16).digest()


def _digest(folder: Folder, root: Root) -> bytes:
    owner = b"%d %d" % (root.id, DOMAINS.index(root.domain))
    return blake2b(owner + folder.digest(), digest_size=16).digest()


def _fingerprint(file: PhotoFile) -> int:
    """A number that a file and the links to it share, small because one is kept of every photo."""
    return hash((file.inode, file.size, file.mtime_ns))
