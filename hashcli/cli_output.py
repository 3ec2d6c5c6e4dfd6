"""What the commands share: the library they work on, where they talk, how they show and report."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hashcli.errors import LibraryError, UsageError

if TYPE_CHECKING:
    from hashcli.extraction import PhotoFailure
    from hashcli.formats import Row
    from hashcli.library import Library
    from hashcli.talk import Talk


def located(folder: Path | None) -> Path:
    """Where the library is or will be. Raises UsageError when a file is there."""
    from hashcli.library import default_location

    place = folder.expanduser() if folder else default_location()
    if place.exists() and not place.is_dir():
        raise UsageError(f"--library: {shown(place)} is a file, and a library is a folder", "name another place")
    return place


def opened(folder: Path | None) -> Library:
    """The library to read. Raises NoLibraryError where there is none."""
    from hashcli.library import Library

    return Library.open(located(folder))


def opened_if_there(folder: Path | None) -> Library | None:
    """The library to take cached features from, where there is one."""
    return opened(folder) if (located(folder) / "library.json").exists() else None


def writable(folder: Path | None) -> Library:
    """The library to write to; one that is not there yet is made when writing begins.

    Raises LibraryError when it may not be written.
    """
    from hashcli.library import Library

    place = located(folder)
    nearest = next(p for p in (place, *place.absolute().parents) if p.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise LibraryError(
            f"the library at {shown(place)} cannot be written: no permission for {shown(nearest)}",
            "check who owns the folder, or name another: --library DIR",
        )
    return Library.at(place)


def query_command(folder: Path | None) -> str:
    """What to type to search the library that was just written."""
    import shlex

    if folder is None or os.environ.get("HASHCLI_LIBRARY") == str(folder):
        return "hashcli query PHOTO"
    return f"hashcli query --library {shlex.quote(shown(folder))} PHOTO"


def shown(path: Path) -> str:
    """A path in a message: nothing in it may harm a terminal."""
    from hashcli.photos import escape

    return escape(os.fsencode(path))


def talk(quiet: bool, verbose: bool) -> Talk:
    """Where the run talks: bars when stderr is a terminal that can draw them, else plain lines."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from hashcli.render import LiveTalk

        return LiveTalk(quiet, verbose)
    from hashcli.talk import Talk

    return Talk(quiet, verbose)


def confirmation() -> Callable[[str], bool] | None:
    """How to ask the user; None when nobody is there to answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda question: typer.confirm(question, err=True)


def drawn(form: str | None) -> bool:
    """Whether a table is drawn for people: by default on a terminal."""
    return form == "table" or (form is None and sys.stdout.isatty())


def show(
    columns: Sequence[str], rows: Iterable[Row], form: str | None, *, header: bool = False, null: bool = False
) -> None:
    """Put a table on stdout: drawn, or in a form for scripts (default: tsv)."""
    if drawn(form):
        from hashcli import render

        render.table(columns, rows)
    else:
        from hashcli import formats

        formats.write(sys.stdout.buffer, form or "tsv", columns, rows, header=header, null=null)


def check_report(file: Path | None) -> None:
    """Raises UsageError when --report names a place that cannot be written: better now than after the work."""
    check_writable(file, "--report", "failed.jsonl")


def check_writable(file: Path | None, option: str, example: str) -> None:
    """Raises UsageError when the option names a file that cannot be written."""
    if file is None:
        return
    if file.is_dir() or not file.parent.is_dir():
        problem = "is a folder" if file.is_dir() else "is in a folder that does not exist"
        raise UsageError(f"{option}: {shown(file)} {problem}", f"name a file to write, such as {option} {example}")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UsageError(f"{option}: {shown(file)} may not be written", "name another file")


@contextmanager
def reporting(report: Path | None) -> Iterator[None]:
    """Write the report also when the work inside ends because not one photo could be used."""
    from hashcli.walking import NothingReadError

    try:
        yield
    except NothingReadError as error:
        _write_report(error.problems, report)
        raise


def finish(failures: Sequence[PhotoFailure], report: Path | None, talk: Talk) -> None:
    """Write the report asked for. Raises typer.Exit with code 3 when some photos failed.

    Photos that only an extra can read were skipped, and did not fail; a line for each kind says what to install.
    """
    from hashcli.formats import text

    _write_report(failures, report)
    for extra, number in Counter(failure.extra for failure in failures if failure.extra).items():
        talk.say(f"{number:,} {extra.upper()} photos skipped; to read them: pip install 'hashcli[{extra}]'")
    failed = [failure for failure in failures if not failure.extra]
    if not failed:
        return
    where = f"{shown(report)} lists them" if report else "--report FILE.jsonl lists them"
    first = f"{text(failed[0].path)}: {text(failed[0].reason)}"
    talk.say(f"{len(failed):,} failed, the first: {first}; {where}")
    raise typer.Exit(3)


def _write_report(failures: Sequence[PhotoFailure], report: Path | None) -> None:
    import json

    from hashcli.formats import photo_failure

    if report is not None:
        lines = [json.dumps(photo_failure(failure.path, failure.reason)) + "\n" for failure in failures]
        report.write_text("".join(lines), encoding="ascii")
