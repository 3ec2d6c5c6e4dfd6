"""Filling a generation's gallery: the photos just given, and every live photo of the gallery before it.

A photo is carried over from its cached feature. One whose feature this backbone never computed is read again
while its file is there; one whose file is gone as well is named in the result, because search will no longer
find it. All of it goes in blocks, so that memory does not grow with the library, and what an interrupted run
has stored is kept by the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from hashcli import caption_store
from hashcli.collection import folder_label
from hashcli.encoder import Encoder
from hashcli.extraction import PhotoFailure, extract
from hashcli.gallery import Gallery
from hashcli.hasher import Hasher
from hashcli.photos import PhotoError, PhotoFile, stat_photo
from hashcli.progress import Progress, Task
from hashcli.records import DOMAINS, Domain, Record
from hashcli.roots import Roots

if TYPE_CHECKING:
    from hashcli.backbones import ExportedBackbone
    from hashcli.generation import Generation
    from hashcli.library import Library

T = TypeVar("T")
BLOCK = 4096


@dataclass(frozen=True)
class Given:
    """A photo that was just read: its digest, its row in the feature cache, its caption if anyone looked for one."""

    file: PhotoFile
    domain: Domain
    label: str | None
    digest: bytes
    row: int
    caption: str | None = None


@dataclass(frozen=True)
class Filled:
    """How many photos of each kind the gallery took, and those that search no longer finds."""

    n_given: int
    n_carried: int
    lost: list[PhotoFailure]


def fill(
    library: Library,
    folder: Path,
    backbone: ExportedBackbone,
    given: Iterable[Given],
    *,
    roots: Sequence[tuple[bytes, Domain]],
    old: Generation | None,
    workers: int | None,
    progress: Progress,
) -> Filled:
    """Fill the gallery of the generation in `folder`, whose hasher is written; call it inside `library.writing()`.

    roots     absolute path and domain of the folders that `given` comes from
    old       the generation to carry over; None carries nothing (a staged hasher)

    What the gallery holds already, by path, is left as it is: given photos win over the old gallery's records,
    a photo given twice counts once, and an interrupted fill goes on. Raises DamagedError.
    """
    hasher = Hasher.open(folder / "hasher")
    with _opened(folder / "gallery", hasher) as gallery:
        for path, domain in roots:
            gallery.add_root(path, domain)
        filling = _Filling(library, gallery, hasher, backbone, workers, progress)
        said: dict[bytes, str] = {}
        n_given = 0
        with progress.task("giving photos their codes") as task:
            for block in blocks(_noting_captions(given, said)):
                n_given += filling.give(block)
                task.advance(len(block))
        for path, domain in roots:
            gallery.add_root(path, domain, by_folder=path not in filling.by_table)
        n_carried = 0
        if old is not None:
            with old.gallery() as source:
                n_carried = filling.carry(source)
        caption_store.complete(folder, hasher, gallery, said, old, progress)
        return Filled(n_given, n_carried, filling.lost)


def _noting_captions(given: Iterable[Given], said: dict[bytes, str]) -> Iterator[Given]:
    for photo in given:
        if photo.caption is not None:
            said[photo.digest] = said.get(photo.digest) or photo.caption
        yield photo


@contextmanager
def _opened(folder: Path, hasher: Hasher) -> Iterator[Gallery]:
    fresh = not (folder / "data.mdb").exists()
    gallery = Gallery.create(folder, hasher.n_bits, hasher.digest) if fresh else Gallery.open(folder, write=True)
    try:
        yield gallery
    finally:
        gallery.close()


class Codes:
    """Codes from cached features."""

    def __init__(self, library: Library, hasher: Hasher) -> None:
        self._library, self._spec = library, hasher.spec
        self._encoder = Encoder(hasher)

    def __call__(self, rows: Sequence[int], domains: Sequence[Domain]) -> NDArray[np.uint8]:
        """Packed codes of feature cache rows (n,), each in its domain."""
        with self._library.features(self._spec) as cache:
            features = cache.take(np.asarray(rows, np.int64))
        return self._encoder.codes(features, np.array([DOMAINS.index(d) for d in domains], np.int64))


class _Filling:
    def __init__(
        self,
        library: Library,
        gallery: Gallery,
        hasher: Hasher,
        backbone: ExportedBackbone,
        workers: int | None,
        progress: Progress,
    ) -> None:
        self.lost: list[PhotoFailure] = []
        self.by_table: set[bytes] = set()  # roots whose photos are labeled otherwise than by their folders
        self._library, self._gallery, self._backbone = library, gallery, backbone
        self._workers, self._progress = workers, progress
        self._codes = Codes(library, hasher)

    def give(self, block: Sequence[Given]) -> int:
        roots = Roots(self._gallery)
        ids = {root.path: root.id for root in self._gallery.roots()}
        fresh: dict[bytes, Given] = {}
        for photo in block:
            if photo.domain == "src" and photo.label != folder_label(photo.file.path):
                self.by_table.add(photo.file.root)
            if roots.slot_of(photo.file.full) is None:
                fresh.setdefault(photo.file.full, photo)
        photos = list(fresh.values())
        self._append(
            [
                Record(ids[g.file.root], g.file.path, g.file.size, g.file.mtime_ns, g.digest, g.label, g.domain)
                for g in photos
            ],
            [g.row for g in photos],
        )
        return len(photos)

    def carry(self, source: Gallery) -> int:
        old_roots = Roots(source)
        ids = {root.path: root.id for root in self._gallery.roots()}
        for root in source.roots():
            if root.path not in ids:
                ids[root.path] = self._gallery.add_root(root.path, root.domain, root.by_folder)
        roots = Roots(self._gallery)

        def waiting() -> Iterator[list[Record]]:
            for block in blocks(source.scan()):
                yield [record for _, record in block if roots.slot_of(old_roots.full(record)) is None]

        n_missing = sum(int((self._rows(block, check=True) < 0).sum()) for block in waiting())
        if n_missing:
            self._progress.say(
                f"{n_missing} photos of the library are read again: {self._backbone.spec.name} has not seen them yet"
            )
        n_carried = 0
        with self._progress.task("carrying photos over", n_missing or source.count()) as task:
            progress = within(self._progress, task) if n_missing else self._progress
            for block in waiting():
                records, rows = self._with_rows(block, old_roots, progress)
                self._append([replace(r, root=ids[old_roots[r.root].path]) for r in records], rows)
                n_carried += len(records)
                if not n_missing:  # else reading them is the progress
                    task.advance(len(block))
        return n_carried

    def _rows(self, records: Sequence[Record], check: bool = False) -> NDArray[np.int64]:
        digests = [record.digest for record in records]
        with self._library.features(self._backbone.spec) as cache:
            if check and (n := cache.drop_damaged(digests)):
                self._progress.say(f"{n} cached features are damaged; their photos are read again")
            return cache.rows(digests)

    def _with_rows(self, records: Sequence[Record], roots: Roots, progress: Progress) -> tuple[list[Record], list[int]]:
        """The records with their feature rows, those without a feature after reading their files again."""
        rows = self._rows(records)
        known = [(record, int(row)) for record, row in zip(records, rows, strict=True) if row >= 0]
        again: list[tuple[Record, PhotoFile]] = []
        for record in (r for r, row in zip(records, rows, strict=True) if row < 0):
            try:
                again.append((record, stat_photo(roots.full(record), roots[record.root].path)))
            except PhotoError as error:
                self.lost.append(PhotoFailure(roots.full(record), str(error)))
        if again:
            files = [file for _, file in again]
            read = extract(files, self._backbone, self._library, workers=self._workers, progress=progress)
            self.lost += read.failures
            for (record, file), digest, row in zip(again, read.digests, read.rows, strict=True):
                if digest is not None and row >= 0:  # a file that changed meanwhile is carried as it is now
                    now = replace(record, size=file.size, mtime_ns=file.mtime_ns, digest=digest)
                    known.append((now, int(row)))
        return [record for record, _ in known], [row for _, row in known]

    def _append(self, records: Sequence[Record], rows: Sequence[int]) -> None:
        if records:
            self._gallery.append(records, self._codes(rows, [record.domain for record in records]))


def blocks(items: Iterable[T], size: int = BLOCK) -> Iterator[list[T]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block


def within(progress: Progress, task: Task) -> Progress:
    """A Progress whose tasks all advance one that is open already, for work done in blocks."""
    return _Within(progress, task)


class _Within:
    def __init__(self, progress: Progress, task: Task) -> None:
        self._task = task
        self.say, self.log = progress.say, progress.log

    @contextmanager
    def task(self, what: str, total: int | None = None) -> Iterator[Task]:
        yield self._task
