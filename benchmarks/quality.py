"""Measure how good the codes are: tasks x methods x code lengths x seeds, resumable, in one command.

    python benchmarks/quality.py                              the demo's photos; nothing else is needed
    python benchmarks/quality.py --data DIR                   every task whose data lies in DIR
    python benchmarks/quality.py --methods 'itq,couple[alpha=0.3,rho=0.2]' --bits 16,64 --seeds 3
    python benchmarks/quality.py --group ablation             (or switches, sweep-alpha ...)
    python benchmarks/quality.py --approximate --methods couple   neighbors as among more than 20,000 photos
    python benchmarks/quality.py --table                      write the tables from the results that are there

For each seed a tenth of the target, drawn by the seed, asks; the rest of it trains, without labels. Cross-domain
measures rank the source photos, single-domain ones the other target photos. Photos pass through the pipeline of
`hashcli adapt`. A run that is there already is not made again, so an interrupted command goes on; one whose
defaults have changed since is made anew, and where only a method's code has changed, the command says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import platformdirs
import report
import tables
import variants
from measuring import one_run
from runs import Results
from tasks import TASKS, available, load
from variants import Variant

from hashcli import codes, nearest
from hashcli.errors import HashcliError, UsageError
from hashcli.progress import Progress
from hashcli.talk import Talk

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "quality"


def run_task(
    name: str,
    chosen: list[Variant],
    bits: list[int],
    seeds: range,
    *,
    data: Path | None,
    cache: Path,
    folder: Path,
    again: bool,
    progress: Progress,
) -> Results | None:
    """Make the runs of one task that are not there yet; None when not one could be made.

    Raises UsageError when the results there were measured on other photos or another backbone.
    """
    path = folder / f"{name}.json"
    results = Results.read(path) if path.exists() else None
    wanted = [(variant, n_bits) for n_bits in bits for variant in chosen]
    if results and again:
        for variant, n_bits in wanted:
            results.drop(variant, n_bits, seeds)
    missing = [
        (variant, n_bits, seed)
        for variant, n_bits in wanted
        for seed in seeds
        if results is None or seed not in results.of(variant, n_bits)
    ]
    if results:
        for variant, n_bits in wanted:
            made = results.of(variant, n_bits).items()
            if any(run.made_by.get("code") != variant.code() for seed, run in made if seed in seeds):
                progress.say(f"{name}: {variant}, {n_bits} bits: its code has changed since; --again measures it anew")
    if not missing:
        return results
    photos = load(TASKS[name], data, cache, progress)
    if results is None or (again and results.inputs != photos.inputs):
        results = Results(name, photos.inputs, [])
    if results.inputs != photos.inputs:
        raise UsageError(
            f"{path} was measured on other photos or another backbone than the ones here",
            "--results DIR puts yours elsewhere; --again measures anew and forgets what the file holds",
        )
    refused: set[tuple[Variant, int]] = set()
    for variant, n_bits, seed in missing:
        if (variant, n_bits) in refused or seed in results.of(variant, n_bits):
            continue
        try:
            run = one_run(variant, photos, n_bits, seed)
        except UsageError as error:
            refused.add((variant, n_bits))
            progress.say(f"{name}: {variant} at {n_bits} bits is left out: {error}")
            continue
        results.add(run)
        results.write(path)
        cross, single = (100 * run.measures[p]["map"] for p in ("cross-domain", "single-domain"))
        progress.say(f"{name}: {variant}, {n_bits} bits, seed {seed}: mAP {cross:.1f} cross, {single:.1f} single")
    return results


def main(words: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="where to find emoji.tar, digits.tar, MNIST_vs_USPS.mat, or one of them"
    )
    parser.add_argument("--tasks", help=f"names, comma between: {', '.join(TASKS)} (default: all whose data is there)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--methods", help="NAME or NAME[setting=value,...], comma between")
    which.add_argument("--group", choices=variants.GROUPS, default="main", help="methods listed in variants.py")
    parser.add_argument("--bits", type=_numbers, default=[64], help="code lengths, comma between (default: 64)")
    parser.add_argument("--seeds", type=_seeds, default=range(5), help="how many, from 0, or FIRST-LAST (default: 5)")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    parser.add_argument(
        "--approximate", action="store_true", help="neighbors as among very many photos; results have a folder apart"
    )
    parser.add_argument("--table", action="store_true", help="only write README.md and results/quality.md")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=platformdirs.user_cache_path("hashcli-benchmarks"),
        help="folder for photos and features (default: %(default)s)",
    )
    options = parser.parse_args(words)
    try:
        if options.table:
            report.write(options.results, HERE.parent / "README.md")
            return 0
        if options.approximate:
            nearest.EXACT_ROWS = 0
            options.results = options.results.with_name(report.APPROXIMATE)
        return _measure(options, Talk())
    except HashcliError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _seeds(text: str) -> range:
    first, dash, last = text.partition("-")
    return range(int(first), int(last) + 1) if dash else range(int(first))


def _measure(options: argparse.Namespace, progress: Progress) -> int:
    names = options.tasks.split(",") if options.tasks else available(options.data)
    for name in names:
        if name not in TASKS:
            raise UsageError(f"there is no task {name!r}", f"tasks: {', '.join(TASKS)}")
    chosen = variants.parse(options.methods) if options.methods else variants.group(options.group)
    for n_bits in options.bits:
        codes.check_n_bits(n_bits)
    for variant in chosen:
        variant.settings()  # refuses what is misspelled before any work
    for name in names:
        results = run_task(
            name,
            chosen,
            options.bits,
            options.seeds,
            data=options.data,
            cache=options.cache,
            folder=options.results,
            again=options.again,
            progress=progress,
        )
        if results:
            print(f"\n{name}\n\n{tables.task_table(results, chosen, options.bits)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
