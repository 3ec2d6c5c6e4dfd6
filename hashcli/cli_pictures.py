"""What `hashcli query` shows as pictures: a page for the browser, thumbnails in the terminal."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashcli import cli_output as output
from hashcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hashcli.library import Library
    from hashcli.result_page import Asked
    from hashcli.search import QueryResult
    from hashcli.talk import Talk

Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE.html", help="Also write the results as a page with pictures, in one file."),
]
Open = Annotated[
    bool, typer.Option("--open", help="Open that page in the browser; without --html it is a temporary file.")
]
Preview = Annotated[
    bool, typer.Option("--preview", help="Show the first photos in the terminal; nothing changes in a pipe.")
]


@dataclass(frozen=True)
class Pictures:
    """Which pictures the user asked for."""

    html: Path | None
    open: bool
    preview: bool
    workers: int | None

    def check(self) -> None:
        """Raises UsageError for a page that cannot be written, MachineError for pictures that cannot be drawn."""
        output.check_writable(self.html, "--html", "results.html")
        if self._draws:
            from hashcli import preview

            preview.check()

    def refuse(self, form: str) -> None:
        """Raises UsageError when any was asked for with a form of the command that shows no photos."""
        if self.html or self.open:
            raise UsageError(f"--html and --open show photos, and {form} shows words", "leave out one of the two")

    def show(self, results: Sequence[QueryResult], library: Library, talk: Talk, *, photos: bool = True) -> None:
        """Do it, if asked; before stdout gets anything, because whoever reads that may stop early.

        photos: they were looked for with photos, not with words
        """
        if not (self.html or self.open or self._draws):
            return
        from hashcli.result_page import Asked

        asked = [Asked(result.path, result.matches, result.error, photos) for result in results]
        if self.html or self.open:
            self._write_page(asked, library, talk)
        if self._draws:
            from hashcli import preview

            preview.draw(asked, self.workers, talk)

    def _write_page(self, asked: Sequence[Asked], library: Library, talk: Talk) -> None:
        import webbrowser

        from hashcli.result_page import SIZE, result_page, shown_photos
        from hashcli.thumbnails import thumbnails

        generation = library.require()
        with generation.gallery() as gallery:
            about = f"{generation.hasher.method}, {generation.hasher.n_bits} bits, {gallery.count():,} photos"
        pictures = thumbnails(shown_photos(asked), SIZE, self.workers, talk)
        place = self.html or _temporary()
        place.write_text(result_page(asked, pictures, about), "utf-8")
        talk.say(f"{output.shown(place)}: the results with pictures")
        if self.open and not webbrowser.open(place.absolute().as_uri()):
            talk.say("no browser could be opened; open the file yourself")

    @property
    def _draws(self) -> bool:
        return self.preview and sys.stdout.isatty()


def _temporary() -> Path:
    import tempfile

    descriptor, name = tempfile.mkstemp(prefix="hashcli-", suffix=".html")
    os.close(descriptor)
    return Path(name)
