"""What `eval` measured: rows, their means over seeds, and what the reader must know about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from hashcli.metrics import Measures

Protocol = Literal["cross-domain", "single-domain", "given", "image-to-text", "text-to-image"]


@dataclass(frozen=True)
class EvalRow:
    """Measures of one method, trained with one seed, under one protocol.

    cross-domain: target queries, source gallery; single-domain: target queries, gallery of the other target photos;
    given: the queries and the gallery that the user named; image-to-text, text-to-image: photos and captions of the
    target, gallery of the source's captions and photos.
    """

    method: str
    seed: int
    n_bits: int
    protocol: Protocol
    measures: Measures


@dataclass(frozen=True)
class Summary:
    """Means over the seeds, and their standard deviations (n - 1), which one seed does not have: None."""

    method: str
    protocol: Protocol
    n_bits: int
    n_seeds: int
    mean: dict[str, float]
    deviation: dict[str, float] | None


@dataclass(frozen=True)
class EvalReport:
    """Rows in the order they were measured, and what the reader must know about them."""

    rows: list[EvalRow]
    notes: list[str] = field(default_factory=list)

    def summary(self) -> list[Summary]:
        """One line per method, protocol and code length, in the order of the rows."""
        groups: dict[tuple[str, Protocol, int], list[Measures]] = {}
        for row in self.rows:
            groups.setdefault((row.method, row.protocol, row.n_bits), []).append(row.measures)
        return [_summary(*key, measures) for key, measures in groups.items()]


def _summary(method: str, protocol: Protocol, n_bits: int, measures: list[Measures]) -> Summary:
    table = [asdict(m) for m in measures]
    columns = {name: np.array([row[name] for row in table], np.float64) for name in table[0]}
    mean = {name: float(column.mean()) for name, column in columns.items()}
    deviation = {name: float(column.std(ddof=1)) for name, column in columns.items()} if len(table) > 1 else None
    return Summary(method, protocol, n_bits, len(table), mean, deviation)
