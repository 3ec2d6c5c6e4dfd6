"""Results on disk: one JSON file a task, one line a run, written whole after each, so that none is lost or repeated."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from variants import Variant

from hashcli.durable import replace_file
from hashcli.errors import UsageError


@dataclass(frozen=True)
class Run:
    """One method, trained once and measured: `measures` by protocol, as `metrics.Measures` names them.

    settings    all that the method knew, its defaults of that day included
    selection   the method's own last word on which targets it trusted, if it gave one
    made_by     versions, the commit ("+" after it: with changes), threads, a digest of the method's own file
    """

    method: str
    words: list[str]
    bits: int
    seed: int
    measures: dict[str, dict[str, float]]
    seconds: float
    settings: dict[str, Any]
    made_by: dict[str, Any]
    selection: dict[str, Any] = field(default_factory=dict)

    @property
    def current(self) -> bool:
        """Whether its words still mean the settings it had: defaults may have changed since."""
        try:
            return Variant(self.method, tuple(self.words)).settings() == self.settings
        except UsageError:
            return False


@dataclass
class Results:
    """The runs of one task on the same photos and backbone (`inputs`)."""

    task: str
    inputs: dict[str, Any]
    runs: list[Run]

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote."""
        record = json.loads(path.read_text(encoding="utf-8"))
        return cls(record["task"], record["inputs"], [Run(**run) for run in record["runs"]])

    def write(self, path: Path) -> None:
        """Replace the file in one step; a crash leaves it as it was."""
        runs = sorted(self.runs, key=lambda run: (run.method, run.words, run.bits, run.seed))
        lines = ",\n".join(json.dumps(asdict(run)) for run in runs)
        text = f'{{"task": {json.dumps(self.task)},\n"inputs": {json.dumps(self.inputs)},\n"runs": [\n{lines}\n]}}\n'
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())

    def of(self, variant: Variant, bits: int) -> dict[int, Run]:
        """Runs by seed, ascending, whose settings are the ones that this variant has today."""
        wanted = variant.settings()
        found = [r for r in self.runs if (r.method, r.bits, r.settings) == (variant.method, bits, wanted)]
        return {run.seed: run for run in sorted(found, key=lambda run: run.seed)}

    def drop(self, variant: Variant, bits: int, seeds: range) -> None:
        """Forget these runs of a variant."""
        gone = [run for seed, run in self.of(variant, bits).items() if seed in seeds]
        self.runs = [run for run in self.runs if run not in gone]

    def add(self, run: Run) -> None:
        """Add a run, and forget those that were made with other defaults."""
        self.runs = [*(old for old in self.runs if old.current), run]


def read_all(folder: Path) -> dict[str, Results]:
    """The results of all tasks in `folder`, by task."""
    found = [Results.read(path) for path in sorted(folder.glob("*.json"))]
    return {results.task: results for results in found}
