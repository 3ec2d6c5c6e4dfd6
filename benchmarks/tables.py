"""Tables of results: cells are percent, mean ± standard deviation over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from runs import Results, Run
from variants import ORACLE, Variant

Scores = dict[int, float]  # percent by seed

COLUMNS = (
    ("cross mAP", "cross-domain", "map"),
    ("single mAP", "single-domain", "map"),
    ("P@100", "cross-domain", "precision_at_k"),
    ("mAP radius 2", "cross-domain", "map_radius_2"),
    ("empty balls", "cross-domain", "share_of_empty_balls"),
)
BALLS = (
    ("cross mAP", "cross-domain", "map"),
    ("cross, radius 2", "cross-domain", "map_radius_2"),
    ("empty", "cross-domain", "share_of_empty_balls"),
    ("single mAP", "single-domain", "map"),
    ("single, radius 2", "single-domain", "map_radius_2"),
    ("empty", "single-domain", "share_of_empty_balls"),
)


def scores(runs: Mapping[int, Run], protocol: str = "cross-domain", name: str = "map") -> Scores:
    """One measure of some runs, in percent."""
    return {seed: 100 * run.measures[protocol][name] for seed, run in runs.items()}


def mean_of(tasks: Sequence[Scores]) -> Scores:
    """For each seed that all tasks have, the mean over the tasks; empty when a task has none."""
    shared = set.intersection(*(set(task) for task in tasks)) if tasks else set()
    return {seed: float(np.mean([task[seed] for task in tasks])) for seed in sorted(shared)}


def less(first: Scores, second: Scores) -> Scores:
    """Differences, seed by seed."""
    return {seed: value - second[seed] for seed, value in first.items() if seed in second}


def better_source_only(results: Results, n_bits: int) -> Scores:
    """Cross-domain mAP of source-only, centered or not: of the one whose mean is larger."""
    forms = (Variant("source-only"), Variant("source-only", ("centering=none",)))
    return max((scores(results.of(form, n_bits)) for form in forms), key=_mean)


def task_table(
    results: Results, chosen: Sequence[Variant], bits: Iterable[int], columns: Iterable[tuple[str, str, str]] = COLUMNS
) -> str:
    """One line per variant and code length that has runs with today's settings; empty when there is none."""
    columns = tuple(columns)
    lines = []
    for n_bits in bits:
        base = better_source_only(results, n_bits)
        for variant in chosen:
            if not (runs := results.of(variant, n_bits)):
                continue
            cells = [cell(scores(runs, protocol, name)) for _, protocol, name in columns]
            gain = "" if variant.method == "source-only" else cell(less(scores(runs), base), "+")
            lines.append([label(variant), str(n_bits), *cells, gain, cell(_trusted(runs)), str(len(runs))])
    return markdown(["method", "bits", *(title for title, _, _ in columns), "gain", "trusted", "seeds"], lines)


def overview(found: Mapping[str, Results], groups: Mapping[str, Mapping[str, str]], chosen: Sequence[Variant]) -> str:
    """Methods x tasks at 64 bits, with the mean of each group and of all; `groups`: by title, titles of tasks by name.

    Last columns: single-domain mAP, gain over the better source-only, and the share of its distance from the oracle
    that this gain is, all of them over all tasks.
    """
    names = [name for group in groups.values() for name in group]
    head = ["method", *(title for group in groups.values() for title in group.values())]
    head += [*(f"**{title}**" for title in groups), "**all**", "single, all", "gain", "of the gap"]
    base = mean_of([better_source_only(found[name], 64) for name in names])
    bound = less(mean_of([scores(found[name].of(Variant(ORACLE), 64)) for name in names]), base)
    lines = []
    for variant in chosen:
        runs = {name: found[name].of(variant, 64) for name in names}
        cross = {name: scores(those) for name, those in runs.items()}
        overall = mean_of(list(cross.values()))
        gain = {} if variant.method == "source-only" else less(overall, base)
        closes = bool(bound) and variant.method != ORACLE and _mean(gain) > 0
        share = f"{100 * _mean(gain) / _mean(bound):.0f}" if closes else ""
        lines.append(
            [
                label(variant),
                *(cell(cross[name]) for name in names),
                *(cell(mean_of([cross[name] for name in group])) for group in groups.values()),
                cell(overall),
                cell(mean_of([scores(those, "single-domain") for those in runs.values()])),
                cell(gain, "+"),
                share,
            ]
        )
    return markdown(head, [line for line in lines if any(line[1:])])


def lengths_table(results: Results, chosen: Sequence[Variant], bits: Sequence[int], protocol: str) -> str:
    """Methods x code lengths: mean average precision."""
    lines = [[label(v), *(cell(scores(results.of(v, n_bits), protocol)) for n_bits in bits)] for v in chosen]
    return markdown(["method", *map(str, bits)], [line for line in lines if any(line[1:])])


def means(measured: Sequence[Results], chosen: Sequence[Variant], bits: Sequence[int]) -> str:
    """Variants x `BALLS`: means over all tasks and code lengths, of the seeds that all of these have."""
    lines = []
    for variant in chosen:
        runs = [results.of(variant, n_bits) for results in measured for n_bits in bits]
        cells = [mean_of([scores(those, protocol, name) for those in runs]) for _, protocol, name in BALLS]
        if cells[0]:
            lines.append([label(variant), *map(cell, cells), str(len(cells[0]))])
    return markdown(["mean", *(title for title, _, _ in BALLS), "seeds"], lines)


def compared(found: Mapping[str, Results], titles: Mapping[str, str], chosen: Sequence[Variant], base: Variant) -> str:
    """Variants x tasks at 64 bits, their mean, and the difference of each from `base` in the seeds they share.

    Empty when fewer than two variants were measured.
    """

    def cross(variant: Variant) -> list[Scores]:
        return [scores(found[name].of(variant, 64)) for name in titles]

    reference = mean_of(cross(base))
    lines = []
    for variant in chosen:
        overall = mean_of(cross(variant))
        single = mean_of([scores(found[name].of(variant, 64), "single-domain") for name in titles])
        difference = {} if variant.settings() == base.settings() else less(overall, reference)
        line = [label(variant), *map(cell, cross(variant)), cell(overall) if len(titles) > 1 else ""]
        lines.append([*line, cell(single), cell(difference, "+"), str(len(overall) or "")])
    head = ["", *titles.values(), "mean", "single", f"against {label(base)}", "seeds"]
    lines = [line for line in lines if any(line[1:])]
    return markdown(head, lines) if len(lines) > 1 else ""


def approximated(
    found: Mapping[str, Results], approximate: Mapping[str, Results], titles: Mapping[str, str], variant: Variant
) -> str:
    """A variant at 64 bits, task by task, of the seeds that both have: exact, approximate and what that costs."""
    lines = []
    for name, title in titles.items():
        for what, protocol in (("cross", "cross-domain"), ("single", "single-domain")):
            exact, near = (scores(results[name].of(variant, 64), protocol) for results in (found, approximate))
            exact = {seed: value for seed, value in exact.items() if seed in near}
            cells = [cell(exact), cell(near), cell(less(near, exact), "+")]
            lines.append([f"{title}, {what} mAP", *cells, str(len(exact))])
    return markdown(["", "exact", "approximate", "difference", "seeds"], lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table without the columns that are empty in all lines; empty without lines."""
    if not lines:
        return ""
    kept = [k for k in range(len(head)) if k == 0 or any(line[k] for line in lines)]
    rows = [[row[k] for k in kept] for row in (head, ["---", *["---:"] * (len(head) - 1)], *lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def label(variant: Variant) -> str:
    """What tables call a variant."""
    return variant.title or f"`{variant}`"


def cell(values: Scores, sign: str = "") -> str:
    """Mean ± standard deviation; the mean alone of one seed, nothing of none."""
    if not values:
        return ""
    spread = f" ± {np.std(list(values.values()), ddof=1):.1f}" if len(values) > 1 else ""
    return f"{_mean(values):{sign}.1f}{spread}"


def _mean(values: Scores) -> float:
    return float(np.mean(list(values.values()))) if values else 0.0


def _trusted(runs: Mapping[int, Run]) -> Scores:
    return {s: 100 * r.selection["selected"] / r.selection["targets"] for s, r in runs.items() if r.selection}
