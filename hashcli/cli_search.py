"""`hashcli query`: find photos, or captions, in the gallery."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashcli import cli_options as opt
from hashcli import cli_output as output
from hashcli import cli_pictures as pictures
from hashcli.cli_results import show_captions, show_results
from hashcli.errors import MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hashcli.caption_search import CaptionResult
    from hashcli.extraction import PhotoFailure
    from hashcli.library import Library
    from hashcli.search import QueryResult
    from hashcli.talk import Talk
    from hashcli.text_search import TextResult


def query(
    photos: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTO|-", help="Photos to look for; `-` reads their paths from stdin, one a line."),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="WORDS", help="Look for what these words describe, not for a photo.")
    ] = None,
    captions: Annotated[
        bool, typer.Option("--captions", help="Show what is said about indexed photos, nearest to PHOTO first.")
    ] = False,
    top: Annotated[int, typer.Option("--top", "-k", min=1, metavar="N", help="How many results to show.")] = 10,
    radius: Annotated[
        int | None, typer.Option("--radius", "-r", min=0, metavar="N", help="Only photos within this Hamming distance.")
    ] = None,
    rerank: Annotated[
        int,
        typer.Option(
            "--rerank", min=0, metavar="N", help="Among the N nearest, order equal distances by look; 0: off."
        ),
    ] = 1000,
    include_self: Annotated[
        bool, typer.Option("--include-self", help="Show a photo among its own results too.")
    ] = False,
    unique: Annotated[
        bool, typer.Option("--unique", help="Of photos that show the same picture, show only the nearest.")
    ] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Add a column with the probability that a photo matches the query, as between labeled photos of the "
            "source; may be far off where photos look different.",
        ),
    ] = False,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence", min=0, max=1, metavar="P", help="Only photos that match with at least this probability."
        ),
    ] = None,
    html: pictures.Html = None,
    open_: pictures.Open = False,
    preview: pictures.Preview = False,
    domain: opt.Domain = None,
    form: opt.Format = None,
    null: opt.Null = False,
    header: opt.Header = False,
    workers: opt.Workers = None,
    report: opt.Report = None,
    library: opt.Library = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Find the photos most like PHOTO, or that words describe.

    With --captions: what is said about photos. Order: Hamming distance, then similarity, then path. Exit code 1 when
    nothing is found. A match is a photo of the same class; how probable it is at which distance was learned from
    labeled photos that were held out of training.
    """
    from hashcli import search

    output.check_report(report)
    words = photos or []
    if null and form not in (None, "paths") and "-" not in words:
        raise UsageError(f"--null goes with --format paths, not {form}", "leave out one of the two")
    if text is not None and words:
        raise UsageError("--text looks for words and PHOTO for a photo", "leave out one of the two")
    if not words and text is None:
        raise UsageError("no photo to look for was given", "hashcli query PHOTO, or paths on stdin: hashcli query -")
    if captions and text is not None:
        raise UsageError("--captions goes with PHOTO, and not with --text", "hashcli query PHOTO --captions")
    if (captions or text is not None) and (confidence or min_confidence is not None):
        raise UsageError(
            "--confidence and --min-confidence rest on distances between photos, which say nothing of words: "
            f"they do not go with {'--captions' if captions else '--text'}",
            "--radius N leaves out what is far",
        )
    if unique and not rerank:
        raise UsageError("--unique compares photos by look, which --rerank 0 turns off", "leave out one of the two")
    talk = output.talk(quiet, verbose)
    shown = pictures.Pictures(html, open_, preview, workers)
    shown.check()
    if text is not None:
        asked = os.fsencode(text)
        found = _described(text, output.opened(library), top, radius, rerank, unique, talk)
        described = [search.QueryResult(asked, found.matches)]
        shown.show(described, output.opened(library), talk, photos=False)
        show_results(described, form or ("paths" if null else None), header, null)
        _say_folded(found.folded, talk)
        return
    paths = list(_paths(words, null))
    if captions:
        shown.refuse("--captions")
        from hashcli.caption_search import nearest_captions

        said = nearest_captions(
            output.opened(library),
            paths,
            top=top,
            radius=radius,
            rerank=rerank,
            include_self=include_self,
            unique=unique,
            domain=domain,
            workers=workers,
            progress=talk,
        )
        _check_only_one(said, words)
        show_captions(said, form or ("paths" if null else None), header, null)
        _say_folded(sum(result.folded for result in said), talk)
        _finish(said, report, talk)
        return
    results = search.nearest(
        output.opened(library),
        paths,
        top=top,
        radius=radius,
        rerank=rerank,
        include_self=include_self,
        unique=unique,
        min_confidence=0 if confidence and min_confidence is None else min_confidence,
        domain=domain,
        workers=workers,
        progress=talk,
    )
    _check_only_one(results, words)
    shown.show(results, output.opened(library), talk)
    sure = confidence or min_confidence is not None
    if show_results(results, form or ("paths" if null else None), header, null, confidence=sure):
        talk.say("confidence was measured between labeled photos; where photos look different, it may be far off")
    _say_folded(sum(result.folded for result in results), talk)
    _finish(results, report, talk)


def _say_folded(folded: int, talk: Talk) -> None:
    if folded:
        talk.say(f"{folded:,} near-duplicates are left out")


def _check_only_one(results: Sequence[QueryResult] | Sequence[CaptionResult], words: Sequence[str]) -> None:
    """One photo that was named and cannot be read is a mistake in the command, or takes an extra."""
    from hashcli.photos import escape

    if len(results) == 1 and results[0].error and "-" not in words:
        problem = f"{escape(results[0].path)}: {results[0].error}"
        if needed := re.search(r"needs (hashcli\[\w+\])", results[0].error):
            raise MachineError(problem, f"pip install '{needed[1]}'")
        raise UsageError(problem, "name a photo that exists and can be read")


def _finish(results: Sequence[QueryResult] | Sequence[CaptionResult], report: Path | None, talk: Talk) -> None:
    """Raises typer.Exit with code 3 where photos failed, else 1 where nothing was found."""
    failures: list[PhotoFailure] = []
    if any(result.error for result in results):
        from hashcli.extraction import PhotoFailure  # with all that indexing needs

        failures = [PhotoFailure(result.path, result.error) for result in results if result.error]
    output.finish(failures, report, talk)
    if not any(result.matches for result in results):
        talk.say("nothing found")
        raise typer.Exit(1)


def _described(
    text: str, library: Library, top: int, radius: int | None, rerank: int, unique: bool, talk: Talk
) -> TextResult:
    """The photos that words describe. Raises typer.Exit with code 1 when there are none, having said why."""
    from hashcli.photos import escape
    from hashcli.text_search import nearest_to_text

    result = nearest_to_text(library, text, top=top, radius=radius, rerank=rerank, unique=unique, progress=talk)
    for word, near in result.unknown.items():
        suggestion = f"; known are {', '.join(near)}" if near else ""
        talk.say(f"{escape(os.fsencode(word))}: no caption that was learned from has this word{suggestion}")
    if not result.understood:
        known = f"; frequent words are {', '.join(result.frequent)}" if result.frequent else ""
        talk.say(f"no word of the query is known, so nothing was found{known}")
    elif not result.matches:
        talk.say("nothing found")
    if not result.matches:
        raise typer.Exit(1)
    return result


def _paths(words: Sequence[str], null: bool) -> Iterator[bytes]:
    """The photos' paths; `-` stands for those on stdin. Raises UsageError for NUL bytes that --null would expect."""
    for word in words:
        if word == "-":
            given = sys.stdin.buffer.read()
            if b"\0" in given and not null:
                raise UsageError("the paths on stdin end with NUL bytes", "hashcli query - --null")
            yield from (path for path in given.split(b"\0" if null else b"\n") if path)
        else:
            yield os.fsencode(word)
