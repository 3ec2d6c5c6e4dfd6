"""One domain's photos as training and evaluation use them: readable files, their features, labels as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli.collection import Collection, Labels
from hashcli.extraction import Extracted, PhotoFailure, extract
from hashcli.photos import PhotoFile, escape
from hashcli.progress import Progress
from hashcli.walking import NothingReadError

if TYPE_CHECKING:
    from hashcli.backbones import ExportedBackbone
    from hashcli.library import Library


@dataclass(frozen=True)
class Part:
    """The photos of a collection that could be read: everything here is aligned, (n,) long; features (n, d)."""

    collection: Collection
    files: list[PhotoFile]
    digests: list[bytes]
    labels: list[Labels]
    features: NDArray[np.float16]
    failures: list[PhotoFailure]
    captions: list[str] = field(default_factory=list)  # empty where nobody looked for them

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Part:
        """The photos at `rows` only."""
        return Part(
            self.collection,
            [self.files[i] for i in rows],
            [self.digests[i] for i in rows],
            [self.labels[i] for i in rows],
            self.features[np.asarray(rows, np.int64)],
            self.failures,
            [self.captions[i] for i in rows] if self.captions else [],
        )


def read_part(
    collection: Collection,
    backbone: ExportedBackbone,
    library: Library,
    workers: int | None,
    progress: Progress,
    device: str = "auto",
) -> Part:
    """Features of every readable photo of a collection, from the library's cache where it has them.

    Raises NothingReadError when not one photo could be read.
    """
    extracted: Extracted = extract(
        collection.files, backbone, library, workers=workers, device=device, progress=progress
    )
    failures = [*collection.problems, *extracted.failures]
    good = [i for i, row in enumerate(extracted.rows) if row >= 0]
    if not good:
        first = f"; the first: {escape(failures[0].path)}: {failures[0].reason}" if failures else ""
        what = f"none of the {len(collection.files)} photos in {escape(collection.root)} can be read{first}"
        raise NothingReadError(what, "--report FILE.jsonl lists them all", failures)
    digests = [extracted.digests[i] for i in good]
    with library.features(backbone.spec) as cache:
        features = cache.take(extracted.rows[good])
    return Part(
        collection,
        [collection.files[i] for i in good],
        [digest for digest in digests if digest is not None],
        [collection.labels[i] for i in good],
        features,
        failures,
        [collection.captions[i] for i in good] if collection.captions else [],
    )


def label_array(labels: Sequence[Labels], classes: Sequence[str], multi_label: bool) -> NDArray[np.int64]:
    """Class numbers (n,), or 0/1 rows (n, n_classes) when photos may have several labels.

    A photo without a label (or of a class that is not in `classes`) gets -1, or a row of zeros.
    """
    number = {name: i for i, name in enumerate(classes)}
    if not multi_label:
        return np.array([number.get(names[0], -1) if names else -1 for names in labels], np.int64)
    rows = np.zeros((len(labels), len(classes)), np.int64)
    for row, names in zip(rows, labels, strict=True):
        row[[number[name] for name in names if name in number]] = 1
    return rows
