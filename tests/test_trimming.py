"""Cached features within a limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hashcli.errors import UsageError
from hashcli.features import FeatureCache
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.progress import Silent
from hashcli.trimming import VARIABLE, trim
from tests import tiny


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library in use, with caches of two backbones before the one of today: `old` and `older`."""
    tiny.noise(tmp_path / "photos/mug/1.png", 1)
    library = Library.create(tmp_path / "library")
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(tmp_path / "photos", "src")])
    for name, written in (("old", 2), ("older", 1)):
        FeatureCache(library.folder / "features" / name, 4).close()
        os.utime(library.folder / "features" / name / "index/data.mdb", ns=(written, written))
    return library


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.decode_here(monkeypatch)


@pytest.mark.parametrize(("gigabytes", "left"), [("1", 3), ("0.00006", 2), ("0", 1)])
def test_the_oldest_go_first_and_the_one_in_use_stays(library, monkeypatch, gigabytes, left):
    monkeypatch.setenv(VARIABLE, gigabytes)
    monkeypatch.setattr("hashcli.trimming.disk_usage", lambda folder: 25_000)
    trim(library, Silent())
    kept = {folder.name for folder in (library.folder / "features").iterdir()}
    assert kept == set([library.require().hasher.spec.key, "old", "older"][:left])


def test_without_features_there_is_nothing_to_trim(tmp_path):
    trim(Library.create(tmp_path / "empty"), Silent())


@pytest.mark.parametrize("limit", ["much", "-1", "nan"])
def test_a_limit_that_is_no_number_is_a_mistake(library, monkeypatch, limit):
    monkeypatch.setenv(VARIABLE, limit)
    with pytest.raises(UsageError, match=VARIABLE):
        trim(library, Silent())


def test_a_mistaken_limit_is_told_before_any_work(library, monkeypatch, tmp_path):
    tiny.noise(tmp_path / "photos/mug/2.png", 2)
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(UsageError, match=VARIABLE):
        index(library, workers=1, progress=Silent())
    assert len(tiny.held(library.require())) == 1
