"""`eval` on folders: whose caches it uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from hashcli.comparing import _caches
from hashcli.errors import LockedError
from hashcli.library import Library
from hashcli.progress import Silent
from tests import tiny


def test_nobody_else_writes_to_the_library_whose_caches_are_used(tmp_path: Path) -> None:
    library = Library.create(tmp_path / "library")
    with _caches(library, Silent()) as caches:
        assert caches is library
        with pytest.raises(LockedError), Library.open(library.folder).writing():
            pass
    with library.writing():
        pass


def test_a_library_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    library, talk = Library.create(tmp_path / "library"), tiny.Heard()
    with Library.open(library.folder).writing(), _caches(library, talk) as caches:
        assert caches.folder != library.folder
        caches.identity().close()
    assert not (library.folder / "identity").exists() and not caches.folder.exists()
    assert len(talk.said) == 1 and "not kept" in talk.said[0]
    with _caches(None, talk) as caches:
        assert caches.folder.is_dir()
