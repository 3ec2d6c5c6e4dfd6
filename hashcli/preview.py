"""Thumbnails in the terminal: by sixel (iTerm2 and WezTerm have it too) or kitty's protocol where the terminal says
that it can, else as colored half blocks."""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from hashcli.errors import MachineError
from hashcli.formats import text
from hashcli.thumbnails import Thumbnail, thumbnails

if TYPE_CHECKING:
    from PIL import Image

    from hashcli.progress import Progress
    from hashcli.result_page import Asked

COLUMNS, ROWS = 20, 9  # of one tile, in character cells
WIDTH, HEIGHT = 10 * COLUMNS, 20 * ROWS  # in pixels; a cell is about twice as high as wide
GAP = 6
FILM = (24, 24, 27)  # between the photos: a terminal does not tell its background
MOST = 11  # tiles of one query, its own photo among them


def check() -> None:
    """Raises MachineError when the library that draws is not installed."""
    if importlib.util.find_spec("textual_image") is None:
        raise MachineError(
            "--preview needs textual-image to draw, which is not installed", "pip install 'hashcli[preview]'"
        )


def draw(asked: Sequence[Asked], workers: int | None, progress: Progress) -> None:
    """Print, for each query, its photo and the first results side by side on stdout, with rank, distance and label."""
    # it asks the terminal what it can draw as soon as it is imported, and logs a traceback where none answers
    logging.getLogger("textual_image").addHandler(logging.NullHandler())
    from textual_image.renderable import Image as Drawn

    console = Console(file=sys.stdout, highlight=False)
    tiles = [_tiles(query) for query in asked]
    pictures = thumbnails([path for some in tiles for path, _ in some], HEIGHT * 2, workers, progress)
    for some in tiles:
        for row in _rows(some, max(1, console.width // COLUMNS)):
            strip = film([pictures[path] for path, _ in row])
            with warnings.catch_warnings():  # textual-image reads pixels in a way that Pillow will drop
                warnings.simplefilter("ignore", DeprecationWarning)
                console.print(Drawn(strip, width=COLUMNS * len(row), height=ROWS))
            console.print(Text("".join(f"{caption[: COLUMNS - 2]:<{COLUMNS}}" for _, caption in row).rstrip()))
        console.print()


def _tiles(query: Asked) -> list[tuple[bytes, str]]:
    """Photos and what stands below them."""
    own = [(query.photo, "looked for")] if query.photo else []
    found = [
        (m.path, text(f"{m.rank}: {m.distance} bit{'s' * (m.distance != 1)}  {m.label or ''}")) for m in query.matches
    ]
    return [*own, *found][:MOST]


def _rows(tiles: Sequence[tuple[bytes, str]], width: int) -> list[Sequence[tuple[bytes, str]]]:
    return [tiles[start : start + width] for start in range(0, len(tiles), width)]


def film(pictures: Sequence[Thumbnail]) -> Image.Image:
    """The pictures side by side, each in a tile of WIDTH x HEIGHT pixels; a photo that cannot be read leaves a gap."""
    from PIL import Image, ImageOps

    strip = Image.new("RGB", (WIDTH * len(pictures), HEIGHT), FILM)
    for place, picture in enumerate(pictures):
        if picture.image is not None:
            inside = ImageOps.contain(picture.image, (WIDTH - 2 * GAP, HEIGHT - 2 * GAP))
            left = WIDTH * place + (WIDTH - inside.width) // 2
            strip.paste(inside, (left, (HEIGHT - inside.height) // 2))
    return strip
