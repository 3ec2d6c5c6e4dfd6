"""Libraries that earlier versions made are read, and give the answers that they gave."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from campaigns import world
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.search import nearest
from hashcli.verifying import verify
from tests import tiny

GOLDEN = Path(__file__).with_name("golden")
CODES = {
    b"/golden/studio/mug/1.png": "9dc484a0d04ab4c5",
    b"/golden/studio/mug/3.png": "1cc1a888625ab79f",
    b"/golden/studio/mug/5.png": "18c1a188605eb59f",
    b"/golden/phone/0.png": "099b2b0f0a51b91e",
    b"/golden/phone/2.png": "2fc8bf0b0203bdd5",
    b"/golden/phone/4.png": "60db3b0f6b516b3a",
}
ANSWER = [(b"3.png", 2), (b"5.png", 6), (b"1.png", 20), (b"2.png", 24), (b"0.png", 25), (b"4.png", 30)]


@pytest.fixture(params=sorted(GOLDEN.glob("*.zip")), ids=lambda path: path.stem)
def library(request, tmp_path):
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(tmp_path / "library")
    return Library.open(tmp_path / "library")


def test_a_golden_library_is_whole_and_holds_what_it_held(library):
    assert verify(library, Silent()) == []
    with library.require().gallery() as gallery:
        roots = {root.id: root.path for root in gallery.roots()}
        held = {
            roots[record.root] + b"/" + record.path: gallery.codes([slot]).tobytes().hex()
            for slot, record in gallery.scan()
        }
    assert held == CODES


def test_a_golden_library_answers_as_it_answered(library, tmp_path, monkeypatch):
    tiny.decode_here(monkeypatch)
    world.photo(os.fsencode(tmp_path / "3.png"), 3)
    (result,) = nearest(library, [os.fsencode(tmp_path / "3.png")])
    assert [(os.path.basename(match.path), match.distance) for match in result.matches] == ANSWER


def test_a_golden_library_can_be_added_to(library, tmp_path, monkeypatch):
    from hashcli.indexing import index

    tiny.decode_here(monkeypatch)
    world.photo(os.fsencode(tmp_path / "more" / "9.png"), 9)
    report = index(library, [tmp_path / "more"], progress=Silent())
    assert report.added == 1
    assert verify(library, Silent()) == []
