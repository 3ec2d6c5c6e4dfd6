"""index(): what changed in the folders since last time goes into the gallery, and nothing is read twice.

A photo whose size, times and inode are as before is not opened. A file that is new here, but whose contents a
record has whose own file is gone, was moved: the record gets the new path and keeps its code. Gone photos stay
findable until `prune`; a folder that is missing as a whole (an unplugged disk) loses nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli.carrying import Codes, blocks, fill, within
from hashcli.collection import LabelTable, WalkOptions, folder_label, is_linked, real_folder
from hashcli.errors import UsageError
from hashcli.extraction import PhotoFailure, extract
from hashcli.photos import DIGEST_SIZE, PhotoFile, escape, walk
from hashcli.progress import Progress
from hashcli.records import Domain, Record, Root
from hashcli.roots import Roots, inside, relative

if TYPE_CHECKING:
    from hashcli.backbones import ExportedBackbone
    from hashcli.gallery import Gallery
    from hashcli.hasher import Hasher
    from hashcli.library import Library

VANISHED = 0.3  # share of a root's photos beyond which pruning them needs `yes`
_DEFAULT = WalkOptions()


@dataclass
class IndexReport:
    """What index() did; the numbers count photos.

    gone       files that are no longer there, of which `pruned` left the gallery
    carried    photos that a staged hasher took over from the generation before it; `lost` are those it could not
    missing    roots that are not there now; nothing of them was touched
    held_back  roots of which so much vanished that pruning needs `yes`: (path, vanished, of)
    """

    generation: str = ""
    added: int = 0
    changed: int = 0
    moved: int = 0
    unchanged: int = 0
    gone: int = 0
    pruned: int = 0
    n_encoded: int = 0
    carried: int = 0
    failed: list[PhotoFailure] = field(default_factory=list)
    lost: list[PhotoFailure] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)
    held_back: list[tuple[bytes, int, int]] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The numbers by name, for the log."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return numbers | {"failed": len(self.failed), "lost": len(self.lost)}


@dataclass(frozen=True)
class _Target:
    """A folder to look through, and the root that it is or lies in."""

    path: bytes
    root: Root


@dataclass(frozen=True)
class _Candidate:
    """A file that may be new: its root, its slot if the gallery holds its path, and the label a table gives it."""

    file: PhotoFile
    root: Root
    slot: int | None
    label: str | None


def index(
    library: Library,
    folders: Sequence[Path] = (),
    *,
    domain: Domain | None = None,
    prune: bool = False,
    yes: bool = False,
    labels: Path | None = None,
    options: WalkOptions = _DEFAULT,
    workers: int | None = None,
    progress: Progress,
) -> IndexReport:
    """Bring the gallery up to date with `folders`, or with all known roots.

    domain   of the folders (default: what it was; for new ones that of the root around them, else `tgt`)
    prune    photos whose files are gone leave the gallery; `yes` also when they are many (over 30 % of a root)
    labels   a CSV as for `adapt`; new photos of a `src` root that never had one are labeled by their first-level
             subfolder

    A folder inside a known one is a part of it, unless `domain` says that it is another collection.

        if staged and staged.refused:
            progress.say(f"the staged hasher {staged.name} was refused and stays aside")
            staged = None
    Completes a staged hasher first. An interrupted run goes on where it was. Raises NoLibraryError without a
    hasher, UsageError for folders that cannot be, LockedError, DamagedError, MachineError.
    """
    with library.writing():
        if warning := library.warning():
            progress.say(warning)
        report = IndexReport()
        staged = library.staged()
        generation = staged or library.require()
        hasher = generation.hasher
        backbone = hasher.backbone
        if staged:
            progress.say(f"completing the staged {hasher.method} hasher {staged.name}")
            old = library.current()
            filled = fill(library, staged.folder, backbone, (), roots=(), old=old, workers=workers, progress=progress)
            report.carried, report.lost = filled.n_carried, filled.lost
        table = LabelTable(labels) if labels else None
        with generation.gallery(write=True) as gallery:
            run = _Run(library, gallery, hasher, backbone, report, workers, progress)
            targets = run.targets(folders, domain, by_table=table is not None)
            run.update(targets, options, table)
            run.sweep(targets, prune, yes)
        if staged:
            generation = library.complete(staged)
        report.generation = generation.name
        progress.log("index", **report.counts())
        return report


class _Run:
    def __init__(
        self,
        library: Library,
        gallery: Gallery,
        hasher: Hasher,
        backbone: ExportedBackbone,
        report: IndexReport,
        workers: int | None,
        progress: Progress,
    ) -> None:
        self._library, self._gallery, self._backbone = library, gallery, backbone
        self._report, self._workers, self._progress = report, workers, progress
        self._codes = Codes(library, hasher)
        self._roots = Roots(gallery)
        self._links: list[tuple[PhotoFile, Root]] = []  # photos that were met under another name than their own
        self._met: set[int] = set()  # photos that were met under their own name, as `_fingerprint`s
        self._seen = bytearray(gallery.info().slots)  # slots accounted for; later ones are this run's own

    def targets(self, folders: Sequence[Path], domain: Domain | None, by_table: bool) -> list[_Target]:
        """The folders to look through, deepest first; new roots are added, missing ones reported and left out."""
        known = {root.path: root for root in self._gallery.roots()}
        paths = [os.path.realpath(os.fsencode(folder)) for folder in folders] or list(known)
        if not paths:
            raise UsageError("the library knows no folders yet", "name one: hashcli index DIR")
        for path, folder in zip(paths, folders, strict=False):
            if path not in known:
                real_folder(folder, "index")
        wanted = set()
        for path in paths:
            if path in known and not os.path.isdir(path):
                self._report.missing.append(path)
                self._progress.say(f"{escape(path)} is not there now; its photos stay in the library")
                continue
            wanted.add(path)
            root = self._roots.of_folder(path)
            if root is None or domain not in (None, root.domain):
                self._gallery.add_root(
                    path, domain or "tgt", not by_table and (path not in known or known[path].by_folder)
                )
            elif by_table and path == root.path:
                self._gallery.set_root(replace(root, by_folder=False))
        self._roots = Roots(self._gallery)
        targets = [_Target(path, root) for path in wanted if (root := self._roots.of_folder(path))]
        return sorted(targets, key=lambda target: len(target.path), reverse=True)

    def update(self, targets: Sequence[_Target], options: WalkOptions, table: LabelTable | None) -> None:
        """Everything that is in the folders now is in the gallery afterwards."""
        candidates: list[_Candidate] = []
        for target in targets:
            with self._progress.task(f"looking through {escape(target.path)}") as task:
                for block in blocks(self._files(target, targets, options)):
                    candidates += self._changes(block, table)
                    task.advance(len(block))
        for block in blocks(self._links_elsewhere()):
            candidates += self._changes(block, table)
        if table and targets:
            table.check_fits(" or ".join(escape(target.path) for target in targets))
        if candidates:
            with self._progress.task("indexing photos", len(candidates)) as task:
                for some in blocks(candidates):
                    if not self._store(some, within(self._progress, task)):
                        task.advance(len(some))

    def _files(
        self, target: _Target, targets: Sequence[_Target], options: WalkOptions
    ) -> Iterator[tuple[PhotoFile, Root]]:
        """The photos found from this folder on, each with the root it belongs to: the deepest around it."""
        found = walk(
            target.path,
            include=options.include,
            exclude=options.exclude,
            hidden=options.hidden,
            follow_symlinks=options.follow_symlinks,
        )
        for item in found:
            if not isinstance(item, PhotoFile):
                self._report.failed.append(PhotoFailure(item.path, item.reason))
            elif next(other for other in targets if inside(item.full, other.path)) == target:  # else found from there
                owner = self._roots.owner(item.full) or target.root
                if owner.path != item.root:
                    item = replace(item, root=owner.path, path=relative(item.full, owner.path))
                if is_linked(item, options):
                    self._links.append((item, owner))
                    continue
                self._met.add(_fingerprint(item))
                yield item, owner

    def _links_elsewhere(self) -> Iterator[tuple[PhotoFile, Root]]:
        """Of the links those to photos that are neither met nor held under their own name, each photo once."""
        seen: set[bytes] = set()
        for file, root in self._links:
            real = os.path.realpath(file.full)
            if real not in seen and _fingerprint(file) not in self._met and self._roots.slot_of(real) is None:
                seen.add(real)
                yield file, root

    def _changes(self, photos: Sequence[tuple[PhotoFile, Root]], table: LabelTable | None) -> Iterator[_Candidate]:
        """Those of the photos that are not in the gallery just as they are, or whose features were dropped."""
        with self._library.identity() as identity:
            digests = identity.get([file for file, _ in photos])
        with self._library.features(self._backbone.spec) as cache:
            cached = cache.rows([digest or bytes(DIGEST_SIZE) for digest in digests]) >= 0
        with self._gallery.snapshot():
            for (file, root), digest, has_feature in zip(photos, digests, cached, strict=True):
                label = ";".join(table.labels_of(file)) or None if table else None
                slot = self._roots.slot_of(file.full)
                if slot is not None:
                    self._seen[slot] = True
                    old = self._gallery.records([slot])[0]
                    same = digest == old.digest and old == _record(file, root, digest, label or old.label)
                    if same and has_feature:
                        self._report.unchanged += 1
                        continue
                yield _Candidate(file, root, slot, label)

    def _store(self, candidates: Sequence[_Candidate], progress: Progress) -> int:
        """Bring the gallery up to date with these photos -> how many had to be opened: reading them is the progress."""
        files = [candidate.file for candidate in candidates]
        read = extract(files, self._backbone, self._library, workers=self._workers, progress=progress)
        self._report.failed += read.failures
        self._report.n_encoded += read.n_encoded
        kept: list[tuple[int, Record]] = []
        fresh: list[tuple[Record, int]] = []
        removed: list[int] = []
        for candidate, digest, row in zip(candidates, read.digests, read.rows, strict=True):
            if digest is None or row < 0:
                continue  # a record from before it became unreadable stays: it is still the best we have
            moved = candidate.slot is None
            slot = self._left_behind(digest) if moved else candidate.slot
            old = None if slot is None else self._gallery.records([slot])[0]
            record = _record(candidate.file, candidate.root, digest, candidate.label or self._label(candidate, old))
            if slot is None or old is None:
                self._report.added += 1
                fresh.append((record, int(row)))
                continue
            self._seen[slot] = True
            if (old.digest, old.domain) == (digest, record.domain):  # the code is still right
                kept.append((slot, record))
                self._report.moved += moved
                self._report.unchanged += not moved
            else:
                self._report.moved += moved
                self._report.changed += not moved
                fresh.append((record, int(row)))
                if (old.root, old.path) != (record.root, record.path):  # else `append` takes the old slot out
                    removed.append(slot)
        if removed:  # first: a run that is killed in between finds these files new the next time
            self._gallery.remove(removed)
        if kept:
            self._gallery.replace_records(kept)
        if fresh:
            records = [record for record, _ in fresh]
            packed = self._codes([row for _, row in fresh], [record.domain for record in records])
            self._gallery.append(records, packed)
        return read.n_read

    def _left_behind(self, digest: bytes) -> int | None:
        """The slot of a photo of this content whose own file is gone, though its root is there."""
        for slot in self._gallery.slots_of_digest(digest):
            if slot < len(self._seen) and not self._seen[slot]:
                record = self._gallery.records([slot])[0]
                if _is_filled(self._roots[record.root].path) and _is_gone(self._roots.full(record)):
                    return slot
        return None

    def sweep(self, targets: Sequence[_Target], prune: bool, yes: bool) -> None:
        """Count the photos whose files are gone, and take them out where that was asked for.

        Counted apart for each folder and each root below it, because they may be disks of their own.
        """
        there = {root.id: os.path.isdir(root.path) for root in self._roots}
        total: Counter[bytes] = Counter()
        gone: dict[bytes, list[int]] = {}
        for slot, record in self._gallery.scan():
            full = self._roots.full(record)
            target = next((target for target in targets if inside(full, target.path)), None)
            if target is None or not there[record.root]:
                continue
            where = max(target.path, self._roots[record.root].path, key=len)
            total[where] += 1
            if slot < len(self._seen) and not self._seen[slot] and _is_gone(full):
                gone.setdefault(where, []).append(slot)
        for where, slots in gone.items():
            self._report.gone += len(slots)
            if not prune:
                continue
            if len(slots) > VANISHED * total[where] and not yes:
                self._report.held_back.append((where, len(slots), total[where]))
                continue
            self._gallery.remove(slots)
            self._report.pruned += len(slots)

    def _label(self, candidate: _Candidate, old: Record | None) -> str | None:
        """What the photo was labeled, unless it moved away from the subfolder that gave it its label."""
        here = _folder_label(candidate.root, candidate.file.path)
        if old is None:
            return here
        before = self._roots[old.root]
        stayed = candidate.slot is not None and old.domain == candidate.root.domain
        if stayed or (old.label is not None and old.label != _folder_label(before, old.path)):
            return old.label
        return here


def _record(file: PhotoFile, root: Root, digest: bytes, label: str | None) -> Record:
    return Record(root.id, file.path, file.size, file.mtime_ns, digest, label, root.domain)


def _fingerprint(file: PhotoFile) -> int:
    """A number that a file and the links to it share, small because one is kept of every photo."""
    return hash((file.inode, file.size, file.mtime_ns))


def _folder_label(root: Root, path: bytes) -> str | None:
    return folder_label(path) if root.domain == "src" and root.by_folder else None


def _is_gone(full: bytes) -> bool:
    """Whether there is surely no file; one that may not be looked at is not gone."""
    try:
        os.lstat(full)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _is_filled(folder: bytes) -> bool:
    """Whether the folder is there with something in it: an unplugged disk may leave an empty one."""
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False
