"""`hashcli eval`: how well search works, measured on photos whose classes are known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashcli import cli_options as opt
from hashcli import cli_output as output
from hashcli.cli_completion import complete_method
from hashcli.errors import UsageError

if TYPE_CHECKING:
    from hashcli.eval_report import Summary
    from hashcli.formats import Cell

MEASURES = {
    "map": "map",
    "precision_at_k": "precision_at_100",
    "map_radius_2": "map_radius_2",
    "share_of_empty_balls": "empty_balls",
}

TWO_FORMS = (
    "hashcli eval --queries DIR --database DIR measures the library's hasher; "
    "hashcli eval --src DIR --tgt DIR --method a,b trains and compares"
)


RIVALS = "couple,source-only,itq"  # what a page compares where nothing was named
LENGTHS = (16, 32, 64, 128)

COMPARING_ONLY = (
    "truth", "method", "all_methods", "split", "seeds", "bits", "backbone", "settings", "labels", "device", "seed",
)  # fmt: skip
MEASURING_ONLY = ("allow_seen",)


def evaluate(
    ctx: typer.Context,
    queries: Annotated[
        Path | None, typer.Option("--queries", metavar="DIR", help="Photos to search with, classes in subfolders.")
    ] = None,
    database: Annotated[
        Path | None, typer.Option("--database", metavar="DIR", help="Photos to search in, classes in subfolders.")
    ] = None,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Also count photos that took part in training (the output says so).")
    ] = False,
    paper_counting: Annotated[
        bool, typer.Option("--paper-counting", help="Count queries without any relevant photo as 0, as papers do.")
    ] = False,
    src: Annotated[
        Path | None, typer.Option("--src", metavar="DIR", help="Labeled photos to train on, classes in subfolders.")
    ] = None,
    tgt: Annotated[
        Path | None, typer.Option("--tgt", metavar="DIR", help="Photos to adapt to; their subfolders only score.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="FILE.csv", help="Classes of --tgt from a table `path,labels`; only to score."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME,...",
            help="Methods to compare, with commas between. Default: couple.",
            autocompletion=complete_method,
        ),
    ] = None,
    all_methods: Annotated[bool, typer.Option("--all-methods", help="Compare all that are installed.")] = False,
    split: Annotated[
        float,
        typer.Option("--split", min=0.01, max=0.9, metavar="SHARE", help="Share of --tgt held out as queries."),
    ] = 0.1,
    seeds: Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Repetitions, each with its own seed.")] = 1,
    bits: opt.Bits = 64,
    backbone: opt.Backbone = None,
    settings: opt.Settings = None,
    labels: opt.Labels = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    hidden: opt.Hidden = False,
    follow_symlinks: opt.FollowSymlinks = False,
    workers: opt.Workers = None,
    form: opt.TableFormat = None,
    header: opt.Header = False,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            "--report",
            metavar="FILE.html|FILE.jsonl",
            help="FILE.html: a page with figures, examples and what they mean; it also trains for other code lengths, "
            "and compares couple, source-only and itq where --method names none. FILE.jsonl: one JSON line for each "
            "photo that failed. May be given once for each.",
        ),
    ] = None,
    library: opt.Library = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Measure how well search finds photos of the same class.

    With --queries and --database: the library's hasher. With --src and --tgt: methods, trained apart from the
    library with a share of the target held out.
    """
    from hashcli import backbones, comparing
    from hashcli.eval_report import EvalReport
    from hashcli.training import TrainOptions
    from hashcli.walking import WalkOptions

    page, failed = _reports(report or ())
    talk = output.talk(quiet, verbose)
    walk = WalkOptions(tuple(include or ()), tuple(exclude or ()), hidden, follow_symlinks)
    if src and tgt and not database:
        _refuse(ctx, MEASURING_ONLY, "--queries and --database")
        options = TrainOptions(
            method="",
            n_bits=bits,
            backbone=backbone or backbones.DEFAULT,
            settings=tuple(settings or ()),
            device=device,
            seed=seed,
            labels=labels,
            workers=workers,
            walk=walk,
        )
        measured = comparing.compare_folders(
            output.opened_if_there(library),
            src,
            tgt,
            queries=queries,
            truth=truth,
            methods=[name.strip() for name in (method or (RIVALS if page else "couple")).split(",") if name.strip()],
            all_methods=all_methods,
            split=split,
            seeds=seeds,
            paper_counting=paper_counting,
            options=options,
            progress=talk,
            gather=page is not None,
            lengths=LENGTHS if page else (),
        )
    elif queries and database and not (src or tgt):
        _refuse(ctx, COMPARING_ONLY, "--src and --tgt")
        measured = comparing.evaluate_library(
            output.opened(library),
            queries,
            database,
            allow_seen=allow_seen,
            paper_counting=paper_counting,
            walk=walk,
            workers=workers,
            progress=talk,
            gather=page is not None,
        )
    else:
        raise UsageError("eval needs --queries and --database, or --src and --tgt", TWO_FORMS)
    for note in measured.notes:
        talk.say(note)
    summaries = EvalReport(measured.rows).summary()
    show_measures(summaries, form, header)
    if page is not None and measured.evidence is not None:
        from hashcli.report_page import Report, report_page

        same_seed = [row for row in measured.rows if row.seed == measured.rows[0].seed]
        folders = (os.fspath(src), os.fspath(tgt)) if src and tgt else None
        by_length = [*measured.by_length, *same_seed]
        made = Report(summaries, measured.evidence, by_length, measured.notes, folders, workers)
        page.write_text(report_page(made, talk), "utf-8")
        talk.say(f"{output.shown(page)}: figures, examples, and what they mean")
    output.finish(measured.failures, failed, talk)


def _reports(files: Sequence[Path]) -> tuple[Path | None, Path | None]:
    """The page and the list of failures asked for. Raises UsageError, and MachineError where no page can be drawn."""
    pages = [file for file in files if file.suffix.lower() in (".html", ".htm")]
    lists = [file for file in files if file not in pages]
    if len(pages) > 1 or len(lists) > 1:
        raise UsageError("--report takes one page and one list", "hashcli eval ... --report a.html --report b.jsonl")
    for file in files:
        output.check_report(file)
    if pages:
        from hashcli import figures

        figures.check()
    return next(iter(pages), None), next(iter(lists), None)


def _refuse(ctx: typer.Context, names: Sequence[str], form: str) -> None:
    """UsageError for an option that was given and means nothing in this form of the command."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"{parameter.opts[0]} goes with {form} alone", TWO_FORMS)


def show_measures(summaries: Sequence[Summary], form: str | None, header: bool) -> None:
    """Means, and beside each its standard deviation over the seeds; a drawn table puts both in one cell."""
    columns = ["method", "protocol", "bits", "seeds", "queries", "excluded"]
    rows: list[list[Cell]] = []
    for s in summaries:
        rows.append(
            [s.method, s.protocol, s.n_bits, s.n_seeds, round(s.mean["n_queries"]), round(s.mean["n_excluded"])]
        )
        for measure in MEASURES:
            mean, deviation = s.mean[measure], s.deviation[measure] if s.deviation else None
            if output.drawn(form):
                rows[-1].append(f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}")
            else:
                rows[-1] += [mean, deviation]
    for name in MEASURES.values():
        columns += [name] if output.drawn(form) else [name, f"{name}_sd"]
    output.show(columns, rows, form, header=header)
