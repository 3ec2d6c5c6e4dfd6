"""The results of queries as a page to look at: photos in ranked order beside the one that was looked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hashcli import __version__
from hashcli.document import document, frame, photo_link, text

if TYPE_CHECKING:
    from hashcli.ranking import Match
    from hashcli.thumbnails import Thumbnail

SIZE = 256  # of thumbnails, in pixels
KEYS = (
    ("← → ↑ ↓", "move"), ("Enter", "open the photo"), ("/", "filter"), ("Esc", "all again"),
    ("n p", "next and previous query"),
)  # fmt: skip
CONFIDENCE = "probability of a match, as between labeled photos; may be far off where photos look different"


@dataclass(frozen=True)
class Asked:
    """One query: a photo, by the path it was given as, or words; what was found, or why nothing could be looked for."""

    query: bytes
    matches: Sequence[Match]
    error: str | None = None
    is_photo: bool = True

    @property
    def photo(self) -> bytes | None:
        """The photo's absolute path."""
        return os.path.abspath(self.query) if self.is_photo else None


def shown_photos(asked: Sequence[Asked]) -> list[bytes]:
    """Paths of all photos on the page, each once."""
    paths = [query.photo for query in asked if query.photo] + [m.path for query in asked for m in query.matches]
    return list(dict.fromkeys(paths))


def result_page(asked: Sequence[Asked], pictures: Mapping[bytes, Thumbnail], about: str) -> str:
    """The page. `pictures` by absolute path (`shown_photos`); `about` says what was searched."""
    n = sum(len(query.matches) for query in asked)
    what = text(asked[0].query) if len(asked) == 1 else f"{len(asked):,} queries"
    keys = " &nbsp; ".join(f"<kbd>{text(key)}</kbd> {text(does)}" for key, does in KEYS)
    body = (
        f'<header class="top"><h1>hashcli</h1><p>{what}: {n:,} photos found · {text(about)}</p><span id="count"></span>'
        '<input id="filter" type="search" placeholder="Filter by name or label" aria-label="Filter by name or label">'
        "</header>\n<main>\n"
        + "\n".join(_section(query, pictures) for query in asked)
        + f"\n</main>\n<footer>{keys}<br>hashcli {__version__}</footer>"
    )
    title = os.fsdecode(os.path.basename(asked[0].query)) if len(asked) == 1 else f"{len(asked)} queries"
    return document(f"{title} · hashcli", body, script="results.js")


def _section(query: Asked, pictures: Mapping[bytes, Thumbnail]) -> str:
    found = "".join(_card(match, pictures.get(match.path)) for match in query.matches)
    if found:
        results = f'<ol class="results">{found}</ol>'
    else:
        results = f'<p class="nothing">{text(query.error or "nothing found")}</p>'
    if query.photo is None:
        shown = f'<span class="frame words">{text(query.query)}</span><h2>Words</h2><p></p>'
    else:
        folder, _, name = query.photo.rpartition(b"/")
        link = f'<a href="{photo_link(query.photo)}" target="_blank">{frame(pictures.get(query.photo), name)}</a>'
        shown = f"{link}<h2>{text(name)}</h2><p>{text(folder)}</p>"
    return f'<section class="query"><div class="asked">{shown}</div>{results}</section>'


def _card(match: Match, picture: Thumbnail | None) -> str:
    folder, _, name = match.path.rpartition(b"/")
    label = f'<span class="label" title="{text(match.label)}">{text(match.label)}</span>' if match.label else ""
    searched = text(f"{match.label or ''} ") + text(match.path)
    facts = [
        f'<span title="Hamming distance: bits that differ">{match.distance} bit{"s" * (match.distance != 1)}</span>'
    ]
    facts += [f'<span title="similarity">{match.similarity:.2f}</span>']
    if match.confidence is not None:
        facts += [f'<span title="{CONFIDENCE}">{match.confidence:.0%}</span>']
    return (
        f'<li data-text="{searched}"><a class="card" href="{photo_link(match.path)}" target="_blank" '
        f'title="{text(match.path)}">{frame(picture, name)}'
        f'<span class="head"><span class="rank">{match.rank}</span>{label}</span>'
        f'<span class="path"><span class="name">{text(name)}</span> {text(os.path.basename(folder))}</span>'
        f'<span class="facts">{" · ".join(facts)}</span></a></li>'
    )
