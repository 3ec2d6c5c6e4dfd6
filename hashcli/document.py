"""One self-contained HTML file: style, script and pictures inside, nothing fetched, nothing but its own script run.

File names are other people's text. They come in through `text` and `photo_link` only.
"""

from __future__ import annotations

import base64
import hashlib
import html
from typing import TYPE_CHECKING

from hashcli.photos import escape

if TYPE_CHECKING:
    from hashcli.thumbnails import Thumbnail


def document(title: str, body: str, *, script: str | None = None, styles: tuple[str, ...] = ("page.css",)) -> str:
    """The whole file around `body` (HTML). `title` is text; `script` and `styles` name files in assets/."""
    style = "".join(_asset(name) for name in styles)
    code = _asset(script) if script else ""
    allowed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; " + (
        f"script-src 'sha256-{allowed}'" if code else "script-src 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        + (f"<script>{code}</script>\n" if code else "")
        + "</body>\n</html>\n"
    )


def text(words: str | bytes) -> str:
    """Any text, or a path with its odd bytes escaped, as HTML that is nothing but text; also inside quotes."""
    plain = escape(words) if isinstance(words, bytes) else words.encode("utf-8", "backslashreplace").decode()
    return html.escape(plain)


def photo_link(path: bytes) -> str:
    """The URL of a photo on this disk, by its absolute path."""
    from urllib.parse import quote

    return f"file://{quote(path)}"


def frame(thumbnail: Thumbnail | None, about: bytes) -> str:
    """The picture of the photo at `about`, or the reason why there is none, as a box of fixed shape."""
    if thumbnail is None or thumbnail.image is None:
        reason = thumbnail.reason if thumbnail else "no picture"
        return f'<span class="frame"><span class="missing">{text(reason)}</span></span>'
    width, height = thumbnail.image.size
    return (
        f'<span class="frame"><img src="{thumbnail.data_uri()}" alt="{text(about.rpartition(b"/")[2])}" '
        f'width="{width}" height="{height}" loading="lazy" decoding="async"></span>'
    )


def _asset(name: str) -> str:
    from importlib import resources  # which queries without a page need not wait for

    return resources.files("hashcli").joinpath("assets", name).read_text("utf-8")
