"""Where tables of quality stand: one between the README's markers, all of them, question by question, in quality.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tables
from runs import Results, read_all
from tasks import TASKS
from variants import GROUPS, Variant, group

BEGIN, END = "<!-- quality:begin -->", "<!-- quality:end -->"
DEVELOPMENT = {"emoji-google-twitter": "Google → Twitter", "mnist-usps": "MNIST → USPS"}
HELD_OUT = {
    "emoji-google-fluent": "Google → Fluent",
    "emoji-twitter-google": "Twitter → Google",
    "mnist-optdigits": "MNIST → optdigits",
    "usps-mnist": "USPS → MNIST",
}
TITLES = DEVELOPMENT | HELD_OUT
LARGE_SHIFT = {name: TASKS[name].title for name in ("fashion-contours",)}
METAH_TASKS, METAH_LENGTHS = ("emoji-google-twitter", "emoji-google-fluent", "mnist-usps"), (32, 48, 64)
LENGTHS, LENGTHS_TASK = (16, 32, 48, 64, 96, 128), "mnist-usps"

README = """\
Codes of 64 bits on frozen features of the default backbone, every method on the same photos: mean average precision of
target photos that ask among the source photos, in percent, mean ± standard deviation over five seeds. For each seed a
tenth of the target asks; the rest of it trains, without labels. While defaults were chosen, figures of the first two
tasks were looked at; the other four are *held out* (of three recipes that COUPLE has had, they
showed a weakness of the second). *single*: the same queries among the other target photos. *gain*: over the better of
`source-only` with and without centering, task by task; *of the gap*: that gain in percent of the distance from there
to `oracle`, which is source-only that was told the target's labels too.

"""
MORE = """
All measures, code lengths, ablations and sweeps are in [quality.md](benchmarks/results/quality.md). `make quality`
measures again what does not fit the code any more: anywhere on the demo's photos, with `make quality DATA=DIR` on all
tasks, whose data is not part of this project; digests of it are recorded with the results.
"""
LEGEND = """\
In percent, mean ± standard deviation over the seeds. For each seed a tenth of the target photos, drawn by the seed,
are the queries; the other target photos train, without their labels. *cross* ranks the source photos, *single* the
other target photos; where nothing else is said, precision@100, mean average precision in the ball of radius 2 and the
share of queries whose ball is empty are cross-domain. Ties of distance count by expectation. *gain* is the mean of the
differences in cross mAP, seed by seed, to the better of `source-only` with and without centering. `oracle` is
source-only that was told the target's labels as well: a bound, not a method. *trusted* is the share of the target that
the method selected in its last epoch. The deviation of a mean over tasks is that of the seeds' means.

Defaults were chosen by the cross mAP on the two development tasks, for COUPLE from more settings than for the others
(last section); all learned methods have one head (two layers, 512 hidden units), 300 steps of 128 photos of each
domain, and AdamW at one rate. The other four tasks were run once the defaults were settled. COUPLE's have settled
three times. The second recipe, Eq. 16 at full weight, lost single-domain mAP on a task that is held out (MNIST →
optdigits). For the third, which is tabled, *fashion, photos → contours* was made, a third task to develop on, of as
large a shift; so the held-out tasks have decided that much. All that the first two said of COUPLE is gone from these
tables, and in the history of this project. The defaults of self-training, PEACE and METAH have settled twice, by the
development tasks alone, and what the first said is gone likewise."""
TUNING = """\
Settings of each method that learns, on the development tasks, with seeds that no other table has; the first line of
each table is what the default was before. Labels of the target's queries compared these settings; no training saw
them. The best mean of a table is the method's default, if it is ahead of what was the default by more than 0.2. What
they share with COUPLE, head, steps and label codes, is as COUPLE has it. Its own defaults were chosen from about a
hundred settings that were looked at while it was built; no rival had that many."""
PARTS = """\
Flow, mixups and mean teacher are added to pseudo-labels one by one. All else is as in the default, which is V6: soft
pseudo-labels, by propagation on the graph."""
SHIFTED = """\
The same on the third task to develop on, where the domains differ more and fewer pseudo-labels are right:"""
APPROXIMATE = "approximate"  # folder beside the others
NEIGHBORS = """\
COUPLE as above, whose neighbors are exact among so few photos, and with approximate ones, as it has them among more
than 20,000 photos (`--approximate`). Those are found by 128 numbers of the 1,280, and compared by all of them."""
COUPLE = Variant("couple")


def readme_block(found: dict[str, Results]) -> str:
    """What stands between the markers in the README: one table of methods and tasks."""
    return f"{README}{_overview(found)}\n{MORE}"


def document(found: dict[str, Results], tuning: dict[str, Results], approximate: dict[str, Results]) -> str:
    """results/quality.md: everything that was measured, one section for each question."""
    parts = [
        "# Quality",
        "Written by `python benchmarks/quality.py --table` from the JSON files beside it.",
        LEGEND,
    ]
    for title, tabled in (*_sections(found), *_neighbors(found, approximate), *_tuned(tuning)):
        shown = [f"{said}\n\n{table}" if said else table for said, table in tabled if table]
        if shown:
            parts += [f"## {title}", *shown]
    return "\n\n".join(parts) + "\n"


def replaced(readme: str, block: str) -> str:
    """The README with `block` between its markers. Raises ValueError where they are not."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN} ... {END} to write between")
    return f"{before}{BEGIN}\n{block}{END}{after}"


def write(folder: Path, readme: Path) -> None:
    """Write both documents from the results in `folder`, and in `tuning` beside it."""
    found = read_all(folder)
    text = document(found, *(read_all(folder.with_name(name)) for name in ("tuning", APPROXIMATE)))
    folder.with_suffix(".md").write_text(text, encoding="utf-8")
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), readme_block(found)), encoding="utf-8")


Section = tuple[str, list[tuple[str, str]]]


def _overview(found: dict[str, Results]) -> str:
    groups = {"development": DEVELOPMENT, "held out": HELD_OUT}
    return tables.overview(found, groups, group("main")) if found.keys() >= TITLES.keys() else ""


def _sections(found: dict[str, Results]) -> Iterator[Section]:
    """Title, and tables with what is said before each."""
    yield "All methods, 64 bits", [("", _overview(found))]
    for results in (found[name] for name in TASKS if name in found):
        yield f"All methods: {_title(results)}", [("", tables.task_table(results, group("main"), [64]))]
    if results := found.get(LENGTHS_TASK):
        protocols = ("cross-domain", "single-domain")
        tabled = [(f"{p} mAP:", tables.lengths_table(results, group("main"), LENGTHS, p)) for p in protocols]
        yield f"Code lengths: {_title(results)}", tabled
    measured = [found[name] for name in METAH_TASKS if name in found]
    forms = group("metah")
    over_all = [("All tasks and code lengths:", tables.means(measured, forms, METAH_LENGTHS))]
    apart = [(f"{_title(r)}:", tables.task_table(r, forms, METAH_LENGTHS, tables.BALLS)) for r in measured]
    yield "METAH and its forms", over_all + apart
    titles, shifted = ({n: title for n, title in given.items() if n in found} for given in (DEVELOPMENT, LARGE_SHIFT))
    parts = [tables.compared(found, on, group("ablation"), Variant("source-only")) for on in (titles, shifted)]
    yield "COUPLE, part by part", [(PARTS, parts[0]), (SHIFTED, parts[1])]
    yield "COUPLE, one change at a time", [("", tables.compared(found, titles, group("switches"), COUPLE))]
    sweeps = [name for name in GROUPS if name.startswith("sweep-")]
    yield "COUPLE, sweeps", [("", tables.compared(found, titles, group(name), COUPLE)) for name in sweeps]


def _neighbors(found: dict[str, Results], approximate: dict[str, Results]) -> Iterator[Section]:
    titles = {name: title for name, title in TITLES.items() if name in found and name in approximate}
    yield "Approximate neighbors", [(NEIGHBORS, tables.approximated(found, approximate, titles, COUPLE))]


def _tuned(tuning: dict[str, Results]) -> Iterator[Section]:
    tabled = []
    if tuning.keys() >= DEVELOPMENT.keys():
        for name in (name for name in GROUPS if name.startswith("tune-")):
            if table := tables.compared(tuning, DEVELOPMENT, group(name), group(name)[0]):
                tabled.append(("" if tabled else TUNING, table))
    yield "How defaults were chosen", tabled


def _title(results: Results) -> str:
    source, target = (results.inputs[domain]["photos"] for domain in ("source", "target"))
    return f"{TASKS[results.task].title} ({source:,} → {target:,} photos, {results.inputs['classes']} classes)"
