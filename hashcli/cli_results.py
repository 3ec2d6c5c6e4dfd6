"""What `hashcli query` puts on stdout: matches, captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hashcli import cli_output as output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hashcli.caption_search import CaptionResult
    from hashcli.formats import Cell
    from hashcli.search import QueryResult


def show_results(
    results: Sequence[QueryResult], form: str | None, header: bool, null: bool, *, confidence: bool = False
) -> bool:
    """Put the matches on stdout; a drawn table leaves out the one query that everything answers.

    A drawn table shows confidences wherever the hasher gives them, scripts get that column only when they ask for it.
    Returns whether there were any.
    """
    columns: tuple[str, ...] = ("query", "rank", "distance", "similarity", "path", "label", "domain")
    pairs = [(result, match) for result in results for match in result.matches]
    rows: list[tuple[Cell, ...]] = [
        (result.path, match.rank, match.distance, match.similarity, match.path, match.label, match.domain)
        for result, match in pairs
    ]
    sure = any(match.confidence is not None for _, match in pairs) and (confidence or output.drawn(form))
    if confidence or sure:
        columns += ("confidence",)
        rows = [(*row, match.confidence) for row, (_, match) in zip(rows, pairs, strict=True)]
    if output.drawn(form) and len(results) == 1:
        output.show(columns[1:], [row[1:] for row in rows], form)
    else:
        output.show(columns, rows, form, header=header, null=null)
    return sure


def show_captions(results: Sequence[CaptionResult], form: str | None, header: bool, null: bool) -> None:
    """Put the captions on stdout, in the columns that `show_results` has too, and `caption`."""
    columns = ("query", "rank", "distance", "similarity", "caption", "path")
    rows = [(r.path, m.rank, m.distance, m.similarity, m.caption, m.path) for r in results for m in r.matches]
    if output.drawn(form) and len(results) == 1:
        output.show(columns[1:], [row[1:] for row in rows], form)
    else:
        output.show(columns, rows, form, header=header, null=null)
