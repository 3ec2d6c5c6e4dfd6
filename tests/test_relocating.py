"""A folder that moved as a whole: its codes are kept and its photos not read again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hashcli import cli
from hashcli.errors import UsageError
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.relocating import relocate
from tests import tiny


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    monkeypatch.setattr("hashcli.identity.RACY_NS", 0)
    return tiny.decode_here(monkeypatch)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Two generations over disk/a and disk/b."""
    for n in range(6):
        tiny.noise(tmp_path / "disk" / "ab"[n % 2] / "mug" / f"{n}.png", n)
    library = Library.create(tmp_path / "library")
    roots = [(tmp_path / "disk" / "a", "src"), (tmp_path / "disk" / "b", "tgt")]
    for seed in (0, 1):
        tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), roots, seed=seed)
    return library


def test_codes_are_kept_and_nothing_is_read_again(library, tmp_path, opened):
    before = tiny.held(library.require())
    (tmp_path / "disk").rename(tmp_path / "moved")
    opened.clear()

    done = relocate(library, tmp_path / "disk", tmp_path / "moved", Silent())
    report = index(library, workers=1, progress=Silent())

    assert (done.n_folders, done.n_photos, done.n_as_before) == (2, 6, 6)
    assert (report.unchanged, report.added, report.moved, report.gone) == (6, 0, 0, 0)
    assert opened == []
    assert tiny.held(library.require()) == {path.replace("/disk/", "/moved/"): what for path, what in before.items()}


def test_a_copy_on_another_disk_is_not_read_again_either(library, tmp_path, opened):
    shutil.copytree(tmp_path / "disk" / "a", tmp_path / "copy")  # other inodes, same times
    shutil.rmtree(tmp_path / "disk" / "a")
    opened.clear()

    assert relocate(library, tmp_path / "disk" / "a", tmp_path / "copy", Silent()).n_as_before == 3
    assert index(library, workers=1, progress=Silent()).unchanged == 6
    assert opened == []


def test_a_photo_that_is_not_as_before_is_read_again(library, tmp_path, opened):
    (tmp_path / "disk" / "a").rename(tmp_path / "moved")
    os.utime(tmp_path / "moved" / "mug" / "0.png", (1, 1))
    tiny.noise(tmp_path / "moved" / "mug" / "2.png", 99)
    opened.clear()

    assert relocate(library, tmp_path / "disk" / "a", tmp_path / "moved", Silent()).n_as_before == 1
    report = index(library, workers=1, progress=Silent())
    assert (report.unchanged, report.changed) == (5, 1)
    assert len(opened) == 2


def test_the_generation_before_follows(library, tmp_path):
    (tmp_path / "disk").rename(tmp_path / "moved")
    relocate(library, tmp_path / "disk", tmp_path / "moved", Silent())
    with library.writing():
        library.rollback()

    assert all("/moved/" in path for path in tiny.held(library.require()))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("elsewhere", "other", "is no folder that was indexed"),
        ("disk/a/mug", "other", "is no folder that was indexed"),
        ("disk/a", "nowhere", "there is no folder"),
        ("disk/a", "disk/b", "is indexed already"),
        ("disk/a", "other", "none of the 3 photos"),
    ],
)
def test_a_mistake_changes_nothing(library, tmp_path, old, new, says):
    (tmp_path / "other").mkdir()
    before = tiny.held(library.require())

    with pytest.raises(UsageError, match=says):
        relocate(library, tmp_path / old, tmp_path / new, Silent())
    assert tiny.held(library.require()) == before


def test_the_command_says_what_it_did(library, tmp_path, capfd):
    (tmp_path / "disk").rename(tmp_path / "moved")
    words = ["library", "relocate", str(tmp_path / "disk"), str(tmp_path / "moved"), "-L", str(library.folder)]

    assert cli.main(words) == 0
    assert "6 photos are now looked for in" in capfd.readouterr().err
