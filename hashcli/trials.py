"""Parts as the arrays that `evaluation` takes: who trains, who asks, and that no photo does both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hashcli.errors import UsageError
from hashcli.evaluation import Trial, hold_out, split_trials, unique_rows
from hashcli.parts import Part, label_array


class Arrays:
    """Parts as arrays; photos that another part holds as well are left out and noted, so that held out is held out."""

    def __init__(self, classes: list[str], multi_label: bool) -> None:
        self.notes: list[str] = []
        self._classes, self._multi_label = classes, multi_label

    def labels(self, part: Part) -> NDArray[np.int64]:
        """As `parts.label_array` makes them."""
        return label_array(part.labels, self._classes, self._multi_label)

    def trials(
        self, source: Part, target: Part, queries: Part | None, split: float, seeds: int, first_seed: int
    ) -> tuple[list[Trial], Part]:
        """The trials, and the photos that the first of them asks with."""
        numbers = range(first_seed, first_seed + seeds)
        target = self._apart(target, source.digests, "target")
        if queries is None:
            trials = split_trials(target.features, self.labels(target), split, numbers, target.captions)
            return trials, target.take(hold_out(len(target), split, first_seed)[0])
        queries = self._apart(queries, [*source.digests, *target.digests], "query")
        known = self.labels(target) if target.collection.classes else None
        asked = (queries.features, self.labels(queries), queries.captions)
        return [Trial(seed, target.features, known, *asked) for seed in numbers], queries

    def _apart(self, part: Part, others: Sequence[bytes], what: str) -> Part:
        """Raises UsageError when none is left."""
        rows = unique_rows(part.digests, others)
        if not len(rows):
            raise UsageError(
                f"all {len(part)} {what} photos are copies of photos in the other folders, and say nothing",
                "give folders that hold different photos",
            )
        if len(rows) < len(part):
            self.notes.append(f"{len(part) - len(rows)} {what} photos are copies of others and are left out")
        return part.take(rows)
