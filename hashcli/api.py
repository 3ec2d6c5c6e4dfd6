"""hashcli from Python: `Library` does what the commands do, by the same functions, and returns instead of printing.

Imported when a name of it is first used (`hashcli.Library`), so that `import hashcli` costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli import backbones, comparing, indexing, library, search, text_search, training
from hashcli.errors import UsageError
from hashcli.eval_report import EvalReport, Summary
from hashcli.indexing import IndexReport
from hashcli.photos import escape
from hashcli.progress import Progress, Silent
from hashcli.publishing import TrainReport
from hashcli.ranking import Match
from hashcli.records import Domain
from hashcli.search import QueryResult
from hashcli.settings import Value, words
from hashcli.walking import WalkOptions

if TYPE_CHECKING:
    from hashcli.inventory import LibraryInfo

__all__ = ["IndexReport", "Library", "Match", "QueryResult", "Summary", "TrainReport", "WalkOptions"]

Name = str | os.PathLike[str]
_EVERYTHING = WalkOptions()


class Library:
    """A library: one folder with hashers, galleries and caches. Photos are read, never changed.

    Every method raises a `hashcli.HashcliError` (`UsageError`, `LibraryError`, `MachineError`, `RefusedError`) whose
    `hint` says what to do; nothing is printed, unless `progress` prints.
    """

    def __init__(self, path: Name | None = None, *, progress: Progress | None = None) -> None:
        """The library in the folder `path`, by default the one that the command uses; made when something is learned.

        progress   where long work reports (default: nowhere); `hashcli.talk.Talk()` writes lines to stderr
        """
        self.path = Path(path).expanduser() if path is not None else library.default_location()
        self._progress = progress or Silent()

    def adapt(
        self,
        src: Name,
        tgt: Name,
        *,
        method: str = "couple",
        bits: int = 64,
        backbone: str = backbones.DEFAULT,
        settings: Mapping[str, Value] | None = None,
        labels: Name | None = None,
        device: str = "auto",
        seed: int = 0,
        finetune: str = "none",
        hold_out: bool = True,
        replace: bool = False,
        force: bool = False,
        index: bool = True,
        walk: WalkOptions = _EVERYTHING,
        workers: int | None = None,
    ) -> TrainReport:
        """Learn from the labeled photos of `src` how to search the unlabeled ones of `tgt`; index both.

        settings   of the method, as `hashcli methods NAME` lists them
        finetune   last or all: train the backbone too
        hold_out   keep a tenth of the labeled photos out of training, to tell whether it helped
        replace    go on though the hasher in use was learned from unrelated folders
        force      take the new hasher into use though it has collapsed, instead of raising RefusedError
        index      False only puts the hasher aside, for `index` to complete
        """
        options = training.TrainOptions(
            method=method, n_bits=bits, backbone=backbone, settings=words(settings or {}), device=device, seed=seed,
            finetune=finetune, hold_out=hold_out, labels=_path(labels), workers=workers, no_index=not index,
            replace=replace, force=force, walk=walk,
        )  # fmt: skip
        return training.adapt(library.Library.at(self.path), Path(src), Path(tgt), options, self._progress)

    def train(
        self,
        folder: Name,
        *,
        method: str | None = None,
        bits: int = 64,
        backbone: str = backbones.DEFAULT,
        settings: Mapping[str, Value] | None = None,
        labels: Name | None = None,
        captions: Name | None = None,
        device: str = "auto",
        seed: int = 0,
        finetune: str = "none",
        hold_out: bool = True,
        replace: bool = False,
        force: bool = False,
        index: bool = True,
        walk: WalkOptions = _EVERYTHING,
        workers: int | None = None,
    ) -> TrainReport:
        """Learn from one collection, and index it; the arguments are as in `adapt`.

        method     default: dcgh for photos with classes and captions; else source-only with `labels`, dsah without
        captions   a CSV file with the header `path,caption`
        """
        options = training.TrainOptions(
            method=method or "", n_bits=bits, backbone=backbone, settings=words(settings or {}), device=device,
            seed=seed, finetune=finetune, hold_out=hold_out, labels=_path(labels), captions=_path(captions),
            workers=workers, no_index=not index, replace=replace, force=force, walk=walk,
        )  # fmt: skip
        return training.train(library.Library.at(self.path), Path(folder), options, self._progress)

    def index(
        self,
        *folders: Name,
        domain: Domain | None = None,
        prune: bool = False,
        yes: bool = False,
        labels: Name | None = None,
        walk: WalkOptions = _EVERYTHING,
        workers: int | None = None,
    ) -> IndexReport:
        """Index what is new, changed or moved in `folders`, or in all that are indexed.

        prune   forget photos that are gone; `yes` also where they are a large part of a folder
        """
        return indexing.index(
            self._opened(), [Path(folder) for folder in folders], domain=domain, prune=prune, yes=yes,
            labels=_path(labels), options=walk, workers=workers, progress=self._progress,
        )  # fmt: skip

    def query(
        self,
        photo: Name | bytes,
        k: int | None = 10,
        *,
        radius: int | None = None,
        rerank: int = 1000,
        include_self: bool = False,
        unique: bool = False,
        min_confidence: float | None = None,
        domain: Domain | None = None,
    ) -> list[Match]:
        """The `k` indexed photos most like `photo`, nearest first; None: all within `radius`.

        Raises UsageError when the photo cannot be read. `query_many` answers for several at once, and faster.
        """
        (result,) = self.query_many(
            [photo], k, radius=radius, rerank=rerank, include_self=include_self, unique=unique,
            min_confidence=min_confidence, domain=domain,
        )  # fmt: skip
        if result.error:
            raise UsageError(f"{escape(result.path)}: {result.error}", "name a photo that exists and can be read")
        return result.matches

    def query_many(
        self,
        photos: Sequence[Name | bytes],
        k: int | None = 10,
        *,
        radius: int | None = None,
        rerank: int = 1000,
        include_self: bool = False,
        unique: bool = False,
        min_confidence: float | None = None,
        domain: Domain | None = None,
        workers: int | None = None,
    ) -> list[QueryResult]:
        """For each photo its matches, or in `error` why it could not be read.

        rerank          how many of the nearest are put in order of look within equal distance
        include_self    a photo is among its own results
        unique          of photos that show the same picture only the nearest
        min_confidence  only matches at least this probable; LibraryError when no probabilities were learned
        """
        return search.nearest(
            self._opened(), [os.fsencode(photo) for photo in photos], top=k, radius=radius, rerank=rerank,
            include_self=include_self, unique=unique, min_confidence=min_confidence, domain=domain, workers=workers,
            progress=self._progress,
        )  # fmt: skip

    def query_text(
        self, text: str, k: int | None = 10, *, radius: int | None = None, unique: bool = False
    ) -> list[Match]:
        """The indexed photos that words describe; LibraryError when the hasher learned from no captions."""
        found = text_search.nearest_to_text(
            self._opened(), text, top=k, radius=radius, unique=unique, progress=self._progress
        )
        return found.matches

    def evaluate(
        self, queries: Name, database: Name, *, allow_seen: bool = False, walk: WalkOptions = _EVERYTHING
    ) -> list[Summary]:
        """Measure the hasher in use: photos of `queries` looked for among those of `database`.

        Classes are subfolders.
        """
        measured = comparing.evaluate_library(
            self._opened(), Path(queries), Path(database), allow_seen=allow_seen, paper_counting=False, walk=walk,
            workers=None, progress=self._progress,
        )  # fmt: skip
        return EvalReport(measured.rows).summary()

    def info(self) -> LibraryInfo:
        """Counts, sizes, folders and hashers."""
        return self._opened().info()

    def _opened(self) -> library.Library:
        return library.Library.open(self.path)


def _path(name: Name | None) -> Path | None:
    return None if name is None else Path(name)
