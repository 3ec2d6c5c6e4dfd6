"""index(): what changed in the folders since last time goes into the gallery, and nothing is read twice.

A photo whose size, times and inode are as before is not opened. A file that is new here, but whose contents a
record has whose own file is gone, was moved: the record gets the new path and keeps its code. Gone photos stay
findable until `prune`; a folder that is missing as a whole (an unplugged disk) loses nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli import caption_store, sweeping, targets, trimming
from hashcli.carrying import Codes, blocks, fill, within
from hashcli.collection import LabelTable, folder_label
from hashcli.extraction import PhotoFailure, extract
from hashcli.photos import DIGEST_SIZE, PhotoFile, escape
from hashcli.progress import Progress
from hashcli.records import Domain, Record, Root
from hashcli.roots import Roots
from hashcli.survey import Sighting, Survey, state
from hashcli.targets import Target
from hashcli.walking import WalkOptions

if TYPE_CHECKING:
    from hashcli.backbones import ExportedBackbone
    from hashcli.gallery import Gallery
    from hashcli.hasher import Hasher
    from hashcli.library import Library

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
    device: str = "auto",
    progress: Progress,
) -> IndexReport:
    """Bring the gallery up to date with `folders`, or with all known roots.

    domain   of the folders (default: what it was; for new ones that of the root around them, else `tgt`)
    prune    photos whose files are gone leave the gallery; `yes` also when they are many (over 30 % of a root)
    labels   a CSV as for `adapt`; new photos of a `src` root that never had one are labeled by their first-level
             subfolder

    A folder inside a known one is a part of it, unless `domain` says that it is another collection.

    Completes a staged hasher first. An interrupted run goes on where it was. Raises NoLibraryError without a
    hasher, UsageError for folders that cannot be, LockedError, DamagedError, MachineError.
    """
    trimming.limit()
    with library.writing():
        if warning := library.warning():
            progress.say(warning)
        report = IndexReport()
        staged = library.staged()
        if staged and staged.refused:
            progress.say(f"the staged hasher {staged.name} was refused and stays aside")
            staged = None
        generation = staged or library.require()
        hasher = generation.hasher
        backbone = hasher.backbone
        if staged:
            progress.say(f"completing the staged {hasher.method} hasher {staged.name}")
            old = library.current()
            if old is None or staged.carried_from() != old.name:  # once: or moved photos come back in their old place
                filled = fill(
                    library, staged.folder, backbone, (), roots=(), old=old, workers=workers, progress=progress
                )
                report.carried, report.lost = filled.n_carried, filled.lost
                staged.note_carried(old)
        table = LabelTable(labels) if labels else None
        with generation.gallery(write=True) as gallery:
            before = state(library, generation)
            chosen, report.missing = targets.choose(gallery, folders, domain, table, options)
            for path in report.missing:
                progress.say(
                    f"{escape(path)} is not there now; its photos stay in the library; "
                    f"if it moved: hashcli library relocate {shlex.quote(escape(path))} NEW"
                )
            run = _Run(library, gallery, hasher, backbone, report, workers, device, progress)
            survey = Survey(library, generation, run.roots, chosen, options, before, look_closely=table is not None)
            run.update(survey, chosen, table)
            run.sweep(survey, chosen, prune, yes)
            survey.finish()
            caption_store.complete(generation.folder, hasher, gallery, {}, None, progress)
        if staged:
            generation = library.complete(staged)
        trimming.trim(library, progress)
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
        device: str,
        progress: Progress,
    ) -> None:
        self._library, self._gallery, self._backbone = library, gallery, backbone
        self._report, self._progress = report, progress
        self._workers, self._device = workers, device
        self._codes = Codes(library, hasher)
        self.roots = Roots(gallery)
        self._seen = bytearray(gallery.info().slots)  # slots accounted for; later ones are this run's own

    def update(self, survey: Survey, chosen: Sequence[Target], table: LabelTable | None) -> None:
        """Everything that is in the folders now is in the gallery afterwards."""
        candidates: list[_Candidate] = []
        for target in chosen:
            with self._progress.task(f"looking through {escape(target.path)}") as task:
                for block in blocks(survey.photos(target, task.advance)):
                    candidates += self._changes(block, table)
                    task.advance(len(block))
        for block in blocks(survey.links_elsewhere()):
            candidates += self._changes(block, table)
        self._report.unchanged += survey.n_settled
        self._report.failed += survey.problems
        if table and chosen:
            table.say_strange(" or ".join(escape(target.path) for target in chosen), self._progress)
        if candidates:
            with self._progress.task("indexing photos", len(candidates)) as task:
                for some in blocks(candidates):
                    if not self._store(some, survey, within(self._progress, task)):
                        task.advance(len(some))

    def _changes(self, photos: Sequence[Sighting], table: LabelTable | None) -> Iterator[_Candidate]:
        """Those of the photos that are not in the gallery just as they are, or whose features were dropped."""
        with self._library.identity() as identity:
            digests = identity.get([file for file, _, _ in photos])
        with self._library.features(self._backbone.spec) as cache:
            cached = cache.rows([digest or bytes(DIGEST_SIZE) for digest in digests]) >= 0
        with self._gallery.snapshot():
            for (file, root, folder), digest, has_feature in zip(photos, digests, cached, strict=True):
                label = ";".join(table.labels_of(file)) or None if table else None
                slot = self.roots.slot_of(file.full)
                if slot is not None:
                    self._seen[slot] = True
                    old = self._gallery.records([slot])[0]
                    same = digest == old.digest and old == _record(file, root, digest, label or old.label)
                    if same and has_feature:
                        self._report.unchanged += 1
                        folder.unsettled -= 1
                        continue
                yield _Candidate(file, root, slot, label)

    def _store(self, candidates: Sequence[_Candidate], survey: Survey, progress: Progress) -> int:
        """Bring the gallery up to date with these photos -> how many had to be opened: reading them is the progress."""
        files = [candidate.file for candidate in candidates]
        read = extract(
            files, self._backbone, self._library, workers=self._workers, device=self._device, progress=progress
        )
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
            if moved:
                survey.left(self.roots.full(old))
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
                if sweeping.is_filled(self.roots[record.root].path) and sweeping.is_gone(self.roots.full(record)):
                    return slot
        return None

    def sweep(self, survey: Survey, chosen: Sequence[Target], prune: bool, yes: bool) -> None:
        """Count the photos whose files are gone, and take them out where that was asked for."""
        n_met = survey.n_settled + sum(self._seen) + self._report.added
        if sweeping.all_met(self._gallery, self.roots, chosen, n_met):
            return
        total, gone = sweeping.gone(self._gallery, self.roots, chosen, self._seen)
        for where, slots in gone.items():
            self._report.gone += len(slots)
            if not prune:
                continue
            if len(slots) > sweeping.VANISHED * total[where] and not yes:
                self._report.held_back.append((where, len(slots), total[where]))
                continue
            for record in self._gallery.records(slots):
                survey.left(self.roots.full(record))
            self._gallery.remove(slots)
            self._report.pruned += len(slots)

    def _label(self, candidate: _Candidate, old: Record | None) -> str | None:
        """What the photo was labeled, unless it moved away from the subfolder that gave it its label."""
        here = _folder_label(candidate.root, candidate.file.path)
        if old is None:
            return here
        before = self.roots[old.root]
        stayed = candidate.slot is not None and old.domain == candidate.root.domain
        if stayed or (old.label is not None and old.label != _folder_label(before, old.path)):
            return old.label
        return here


def _record(file: PhotoFile, root: Root, digest: bytes, label: str | None) -> Record:
    return Record(root.id, file.path, file.size, file.mtime_ns, digest, label, root.domain)


def _folder_label(root: Root, path: bytes) -> str | None:
    return folder_label(path) if root.domain == "src" and root.by_folder else None
