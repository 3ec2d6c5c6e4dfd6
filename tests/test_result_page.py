"""Results as a page: every photo in its place, and nothing that a file name can do."""

from __future__ import annotations

import html.parser
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from hashcli import cli, search
from hashcli.document import document, photo_link, text
from hashcli.pixels import MAT, decode
from hashcli.progress import Silent
from hashcli.ranking import Match
from hashcli.result_page import Asked, result_page, shown_photos
from hashcli.thumbnails import Thumbnail, thumbnails
from tests import tiny

EVIL = b"/p/\"><script>alert(1)</script>\xff\n&amp; 'x'.jpg"


def match(path: bytes, rank: int = 1, label: str | None = "mug", **more) -> Match:
    return Match(b"q.png", rank, 7, 0.5, 0.5, path, label, "tgt", **more)


class Seen(html.parser.HTMLParser):
    """What a browser would make of the page: elements with their attributes, and text by element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str, kind: str | None = None) -> list[dict[str, str]]:
        return [found for name, found in self.elements if name == tag and kind in (None, found.get("class"))]


def page(*asked: Asked, pictures=None) -> Seen:
    return Seen(result_page(asked, pictures or {}, "tiny, 64 bits, 3 photos"))


# ---- the page


def test_results_stand_in_ranked_order_with_link_distance_label_and_path():
    matches = [match(b"/a/%d.jpg" % i, i, f"class {i}") for i in (1, 2, 3)]
    picture = Thumbnail(Image.new("RGB", (8, 4), (200, 10, 10)))

    seen = page(Asked(b"/q.png", matches), pictures={m.path: picture for m in matches})

    assert [card["href"] for card in seen.all("a", "card")] == [f"file:///a/{i}.jpg" for i in (1, 2, 3)]
    assert [found["data-text"] for found in seen.all("li")] == [f"class {i} /a/{i}.jpg" for i in (1, 2, 3)]
    assert all(found["src"].startswith("data:image/webp;base64,") for found in seen.all("img"))
    assert [(found["width"], found["height"]) for found in seen.all("img")] == [("8", "4")] * 3
    assert seen.words.count("7 bits") == 3


def test_each_query_has_its_section_and_one_that_failed_says_why():
    seen = page(Asked(b"/q/1.png", [match(b"/a.jpg")]), Asked(b"/q/2.png", [], "no such file"), Asked(b"/q/3.png", []))

    assert len(seen.all("section", "query")) == 3
    assert "no such file" in seen.words
    assert "nothing found" in seen.words
    assert "3 queries: 1 photos found" in " ".join(seen.words)


def test_words_that_were_looked_for_are_shown_instead_of_a_photo():
    seen = page(Asked(b"red <b>mushroom</b>", [match(b"/a.jpg")], is_photo=False))

    assert "red <b>mushroom</b>" in seen.words
    assert not seen.all("b")
    assert shown_photos([Asked(b"red mushroom", [match(b"/a.jpg")], is_photo=False)]) == [b"/a.jpg"]


def test_a_file_name_stays_text_wherever_it_stands():
    evil = match(EVIL, label='"><img src=x onerror=alert(1)>', confidence=0.91)
    picture = Thumbnail(Image.new("RGB", (4, 4)))

    seen = page(Asked(EVIL, [evil]), pictures={EVIL: picture})

    assert len(seen.all("script")) == 1  # the page's own
    assert len(seen.all("img")) == 2
    assert all("onerror" not in found for _, found in seen.elements)
    (card,) = seen.all("a", "card")
    assert unquote_to_bytes(card["href"].removeprefix("file://")) == EVIL
    assert card["title"] == r"""/p/"><script>alert(1)</script>\xff\n&amp; 'x'.jpg"""


def test_the_page_runs_its_own_script_alone_and_fetches_nothing():
    whole = result_page([Asked(b"/q.png", [match(b"/a.jpg")])], {}, "")

    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', whole)[1]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]+'", policy)
    assert "http://" not in whole
    assert "https://" not in whole


def test_a_photo_without_a_picture_says_why_and_keeps_its_place():
    seen = page(Asked(b"/q.png", [match(b"/gone.jpg")]), pictures={b"/gone.jpg": Thumbnail(reason="no such file")})

    assert "no such file" in seen.words
    assert len(seen.all("a", "card")) == 1


def test_text_that_is_no_text_can_be_written(tmp_path):
    (tmp_path / "page.html").write_text(document("x \udcff", text("y \udcff")), "utf-8")


def test_links_bring_back_any_path():
    path = bytes(range(1, 256)).replace(b"/", b"") + b"/a#b?c%20.jpg"
    assert unquote_to_bytes(photo_link(b"/" + path).removeprefix("file://")) == b"/" + path
    assert photo_link(path).isascii()


# ---- thumbnails


@pytest.mark.parametrize("shape", [(60, 20), (20, 60), (1, 300), (31, 31)])
def test_a_picture_inside_a_square_is_whole_centered_and_on_the_mat(tmp_path, shape):
    width, height = shape
    photo = tmp_path / "photo.png"
    Image.new("RGB", shape, (10, 20, 200)).save(photo)

    pixels = decode(photo.read_bytes(), 32, "inside")

    own = (pixels != np.array(MAT)).any(-1)
    rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
    assert len(columns) == max(1, round(32 * width / max(shape)))
    assert len(rows) == max(1, round(32 * height / max(shape)))
    assert own[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert abs(columns[0] - (31 - columns[-1])) <= 1
    assert abs(rows[0] - (31 - rows[-1])) <= 1


def test_thumbnails_have_the_photos_shapes_and_what_fails_has_a_reason(tmp_path, monkeypatch):
    opened = tiny.decode_here(monkeypatch)
    monkeypatch.setattr("hashcli.thumbnails.decode_all", sys.modules["hashcli.decoding"].decode_all)
    Image.new("RGB", (50, 25), (9, 9, 9)).save(tmp_path / "wide.png")
    Image.new("RGB", (40, 40), MAT).save(tmp_path / "mat.png")
    (tmp_path / "bad.png").write_bytes(b"not a photo")
    paths = [os.fsencode(tmp_path / name) for name in ("wide.png", "gone.png", "bad.png", "mat.png", "wide.png")]

    found = thumbnails(paths, 20, None, Silent())

    assert found[paths[0]].image.size == (20, 10)
    assert found[paths[1]].reason == "no such file or directory"
    assert "not an image" in found[paths[2]].reason
    assert found[paths[3]].image.size == (20, 20)
    assert len(opened) == 3


# ---- the command


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A library of tiny photos, and a current folder with one of them: own/3.png."""
    from hashcli.library import Library

    tiny.decode_here(monkeypatch)
    monkeypatch.setattr("hashcli.thumbnails.decode_all", sys.modules["hashcli.decoding"].decode_all)
    for i in range(6):
        tiny.noise(tmp_path / "own" / f"{i}.png", i)
    library = Library.create(tmp_path / "library")
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(tmp_path / "own", "tgt")])
    monkeypatch.setenv("HASHCLI_LIBRARY", str(library.folder))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_query_writes_a_page_and_prints_what_it_printed_without(library, capfdbinary):
    assert cli.main(["query", "own/3.png", "-f", "tsv"]) == 0
    plain = capfdbinary.readouterr().out

    assert cli.main(["query", "own/3.png", "-f", "tsv", "--html", "found.html"]) == 0

    out, said = capfdbinary.readouterr()
    assert out == plain
    assert b"found.html: the results with pictures" in said
    seen = Seen((library / "found.html").read_text("utf-8"))
    assert [Path(card["title"]).name for card in seen.all("a", "card")] == [
        Path(line.split(b"\t")[4].decode()).name for line in out.splitlines()
    ]
    assert len(seen.all("img")) == 6


def test_open_shows_the_page_and_says_where_it_is_when_there_is_no_browser(library, monkeypatch, capfd):
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)))
    monkeypatch.setenv("TMPDIR", str(library))
    monkeypatch.setattr("tempfile.tempdir", None)

    assert cli.main(["query", "own/3.png", "--open"]) == 0

    assert opened[0].startswith("file://")
    assert opened[0].endswith(".html")
    assert "no browser could be opened" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["own/3.png", "--html", "nowhere/found.html"],
            "--html: nowhere/found.html is in a folder that does not exist",
        ),
        (["own/3.png", "--captions", "--html", "found.html"], "--html and --open show photos"),
    ],
)
def test_pictures_that_cannot_be_are_refused_before_the_search(library, monkeypatch, capfd, words, said):
    monkeypatch.setattr(search, "nearest", None)
    assert cli.main(["query", *words]) == 2
    assert said in capfd.readouterr().err


def test_preview_changes_nothing_in_a_pipe_and_asks_for_nothing(library, monkeypatch, capfdbinary):
    assert cli.main(["query", "own/3.png"]) == 0
    plain = capfdbinary.readouterr().out
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # not even for what draws

    assert cli.main(["query", "own/3.png", "--preview"]) == 0

    assert capfdbinary.readouterr().out == plain


def test_a_terminal_that_does_not_answer_is_nothing_to_talk_about(monkeypatch, capfd):
    from hashcli import preview

    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own would take it all
    preview.draw([], None, Silent())
    capfd.readouterr()

    logging.getLogger("textual_image._terminal").warning("assuming sizes", exc_info=TimeoutError())

    assert capfd.readouterr() == ("", "")


def test_preview_names_the_extra_that_draws(library, monkeypatch, capfd):
    from hashcli import preview

    monkeypatch.setattr("hashcli.cli_pictures.Pictures._draws", True)
    monkeypatch.setattr(preview.importlib.util, "find_spec", lambda name: None)

    assert cli.main(["query", "own/3.png", "--preview"]) == 5
    assert "hint: pip install 'hashcli[preview]'" in capfd.readouterr().err


def test_preview_draws_the_query_and_the_first_results_above_the_table(library, monkeypatch, capfd):
    monkeypatch.setattr("hashcli.cli_pictures.Pictures._draws", True)
    monkeypatch.setenv("COLUMNS", "65")  # three tiles a row

    assert cli.main(["query", "own/3.png", "--preview", "-k", "4", "-f", "table"]) == 0

    out = capfd.readouterr().out
    captions = [line for line in out.splitlines() if "bits" in line]
    assert captions[0].startswith("looked for          1: ")
    assert captions[1].startswith("3: ")
    assert len(captions) == 2
    assert out.index("looked for") < out.index("similarity")


# ---- in a browser

BROWSER = """
{
const cards = () => [...document.querySelectorAll(".results li:not([hidden]) .card")];
const key = (name) => (document.activeElement || document.body).dispatchEvent(
  new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
const at = () => cards().indexOf(document.activeElement);
const said = [];
const columns = getComputedStyle(document.querySelector(".results")).gridTemplateColumns.split(" ").length;
for (const name of ["ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft", "End", "Home"]) {
  key(name);
  said.push(at());
}
key("n"); said.push(document.activeElement.closest(".query") === document.querySelectorAll(".query")[1]);
key("p"); said.push(document.activeElement.closest(".query") === document.querySelectorAll(".query")[0]);
key("/"); said.push(document.activeElement.id);
const filter = document.querySelector("#filter");
filter.value = "needle label-3"; filter.dispatchEvent(new Event("input"));
said.push(cards().length, document.querySelector("#count").textContent);
key("Enter"); said.push(at());
key("Escape"); said.push(cards().length);
said.push([...document.images].every((image) => image.complete || image.loading === "lazy"));
said.push(typeof window.evil, columns);
document.title = JSON.stringify(said);
}
"""


@pytest.mark.slow
def test_a_browser_walks_filters_and_survives_a_thousand_results_with_odd_names(tmp_path):
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if _runs(b)), None)
    assert browser, "this test needs chromium: apt-get install chromium"
    names = [b"/p/%d" % i + (b"<script>window.evil=1</script>\xff" if i % 7 == 0 else b".jpg") for i in range(999)]
    picture = Thumbnail(Image.new("RGB", (16, 9), (90, 40, 160)))
    many = [match(name, i, f"label-{i % 5}") for i, name in enumerate(names, 1)]
    asked = [Asked(b"/q.png", many), Asked(b"/r.png", [match(b"/p/needle.jpg", 1, "label-3")])]
    whole = result_page(asked, {name: picture for name in names[::2]}, "")
    # the page's own policy would not let a test's script run: it is let in beside the page's
    whole = re.sub(r"script-src 'sha256-[^']*'", "script-src 'unsafe-inline'", whole)
    (tmp_path / "page.html").write_text(whole.replace("</body>", f"<script>{BROWSER}</script></body>"), "utf-8")

    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1200,800", "--virtual-time-budget=8000", "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True, timeout=240, check=True,
    )  # fmt: skip

    title = re.search(r"<title>(.*?)</title>", done.stdout.decode("utf-8", "replace"))[1]
    said = json.loads(html.unescape(title))
    columns = said[-1]
    assert columns >= 4
    assert said[:8] == [0, 1, 2, 2 + columns, 2, 1, 999, 0]
    assert said[8:11] == [True, True, "filter"]
    assert said[11:15] == [1, "1 of 1000", 0, 1000]
    assert said[15:17] == [True, "undefined"]


def _runs(name: str) -> bool:
    return shutil.which(name) is not None
