"""Markdown tables of results; the README's and results/quality.md are written here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from runs import Results, Run, read_all
from tasks import TASKS
from variants import GROUPS, Variant, group

BEGIN, END = "<!-- quality:begin -->", "<!-- quality:end -->"
README_BITS = 64
COLUMNS = (
    ("cross mAP", "cross-domain", "map"),
    ("single mAP", "single-domain", "map"),
    ("P@100", "cross-domain", "precision_at_k"),
    ("mAP radius 2", "cross-domain", "map_radius_2"),
    ("empty balls", "cross-domain", "share_of_empty_balls"),
)
LEGEND = """\
In percent, mean ± standard deviation over the seeds. For each seed a tenth of the target photos, drawn by the seed,
are the queries; the other target photos train, without their labels. *cross* ranks the source photos, *single* the
other target photos; precision@100, mean average precision in the ball of radius 2 and the share of queries whose ball
is empty are cross-domain. Ties of distance count by expectation. *gain* is the mean of the differences in cross mAP,
seed by seed, to the better source-only. `oracle` is source-only that was told the target's labels as well: a bound,
not a method. *trusted* is the share of the target that the method selected in its last epoch."""
README_INTRO = """\
Codes of {bits} bits on frozen features of the default backbone, every method on the same photos. The demo's can be
measured anywhere:

    python benchmarks/quality.py
    python benchmarks/quality.py --table
"""
OTHERS = """
The other tasks need data that is not part of this project (`python benchmarks/quality.py --data DIR`); what each was
measured on is recorded by digest in [benchmarks/results](benchmarks/results/quality).
"""


def task_table(results: Results, chosen: Sequence[Variant], bits: Iterable[int]) -> str:
    """One line per variant and code length that has runs with today's settings; empty when there is none."""
    lines = []
    for n_bits in bits:
        rows = {variant: runs for variant in chosen if (runs := results.of(variant, n_bits))}
        base = _better_source_only(rows)
        for variant, runs in rows.items():
            cells = [_cell([run.measures[protocol][name] for run in runs.values()]) for _, protocol, name in COLUMNS]
            gain = "" if variant.method == "source-only" else _gain(runs, base)
            lines.append([variant.title or f"`{variant}`", str(n_bits), *cells, gain, _trusted(runs), str(len(runs))])
    if not lines:
        return ""
    head = ["method", "bits", *(title for title, _, _ in COLUMNS), "gain", "trusted", "seeds"]
    if not any(line[-2] for line in lines):
        head, *lines = [[*line[:-2], line[-1]] for line in (head, *lines)]
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def readme_block(found: dict[str, Results]) -> str:
    """What stands between the markers in the README: the main methods on all tasks."""
    parts = [README_INTRO.format(bits=README_BITS), LEGEND]
    told = False
    for name in TASKS:
        table = task_table(found[name], group("main"), [README_BITS]) if name in found else ""
        if not table:
            continue
        if name != "demo" and not told:
            parts.append(OTHERS.rstrip())
            told = True
        parts.append(f"\n**{_title(found[name])}**\n\n{table}")
    return "\n".join(parts) + "\n"


def document(found: dict[str, Results]) -> str:
    """results/quality.md: all groups at all code lengths that were measured."""
    parts = [
        "# Quality\n",
        "Written by `python benchmarks/quality.py --table` from the JSON files in `quality/`.\n",
        LEGEND,
    ]
    for title in GROUPS:
        for name in TASKS:
            if name not in found:
                continue
            bits = sorted({run.bits for run in found[name].runs})
            measured = [v for v in group(title) if any(found[name].of(v, n_bits) for n_bits in bits)]
            if len(measured) > 1:  # one line alone compares nothing
                table = task_table(found[name], measured, bits)
                parts.append(f"\n## {title}: {_title(found[name])}\n\n{table}")
    return "\n".join(parts) + "\n"


def replaced(readme: str, block: str) -> str:
    """The README with `block` between its markers. Raises ValueError where they are not."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN} ... {END} to write between")
    return f"{before}{BEGIN}\n{block}{END}{after}"


def write(folder: Path, readme: Path) -> None:
    """Write both documents from the results in `folder`."""
    found = read_all(folder)
    folder.with_suffix(".md").write_text(document(found), encoding="utf-8")
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), readme_block(found)), encoding="utf-8")


def _title(results: Results) -> str:
    source, target = (results.inputs[domain]["photos"] for domain in ("source", "target"))
    return f"{TASKS[results.task].title} ({source:,} → {target:,} photos, {results.inputs['classes']} classes)"


def _cell(values: Sequence[float], sign: str = "") -> str:
    percent = 100 * np.array(values)
    spread = f" ± {percent.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{percent.mean():{sign}.1f}{spread}"


def _cross(runs: dict[int, Run]) -> dict[int, float]:
    return {seed: run.measures["cross-domain"]["map"] for seed, run in runs.items()}


def _better_source_only(rows: dict[Variant, dict[int, Run]]) -> dict[int, float]:
    known = [_cross(runs) for variant, runs in rows.items() if variant.method == "source-only"]
    return max(known, key=lambda maps: float(np.mean(list(maps.values()))), default={})


def _gain(runs: dict[int, Run], base: dict[int, float]) -> str:
    pairs = [value - base[seed] for seed, value in _cross(runs).items() if seed in base]
    return _cell(pairs, "+") if pairs else ""


def _trusted(runs: dict[int, Run]) -> str:
    shares = [run.selection["selected"] / run.selection["targets"] for run in runs.values() if run.selection]
    return _cell(shares) if shares else ""
