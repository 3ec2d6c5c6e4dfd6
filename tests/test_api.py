"""hashcli from Python: the commands' functions, typed, and nothing imported before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hashcli as package
from hashcli import training
from hashcli.library import Library
from tests import tiny


@pytest.fixture
def lib(tmp_path, monkeypatch):
    """A library over photos/ and the folder itself."""
    monkeypatch.setattr("hashcli.identity.RACY_NS", 0)
    tiny.decode_here(monkeypatch)
    for n in range(6):
        tiny.noise(tmp_path / "photos" / "ab"[n % 2] / f"{n}.png", n)
    library = Library.create(tmp_path / "library")
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(tmp_path / "photos", "src")])
    return package.Library(tmp_path / "library")


def test_import_costs_nothing_and_every_public_name_is_there():
    probe = "import sys, hashcli; sys.exit(bool({'numpy', 'torch', 'typer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0

    assert package.__all__ == sorted(package.__all__)
    assert all(getattr(package, name).__name__ == name for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Libary'"):
        _ = package.Libary


def test_query_gives_matches_by_any_kind_of_path(lib, tmp_path):
    photo = tmp_path / "photos" / "a" / "0.png"

    found = lib.query(photo, k=3)

    assert [match.rank for match in found] == [1, 2, 3]
    assert [match.path for match in found] == [match.path for match in lib.query(str(photo), k=3)]
    assert found[0].file.parent.parent == tmp_path / "photos"
    assert {match.label for match in found} <= {"a", "b"}


def test_a_photo_that_cannot_be_read_is_an_error_alone_and_a_result_among_others(lib, tmp_path):
    with pytest.raises(package.UsageError, match=r"nowhere\.jpg"):
        lib.query("nowhere.jpg")
    good, bad = lib.query_many([tmp_path / "photos" / "a" / "0.png", "nowhere.jpg"], 2)
    assert (len(good.matches), good.error) == (2, None)
    assert bad.error


def test_index_evaluate_and_info_work_on_the_library(lib, tmp_path):
    tiny.noise(tmp_path / "more" / "7.png", 7)

    assert lib.index(tmp_path / "more", workers=1).added == 1
    assert lib.info().generations[-1].photos == 7
    (summary,) = lib.evaluate(tmp_path / "photos", tmp_path / "photos", allow_seen=True)
    assert 0 <= summary.mean["map"] <= 1


def test_learning_passes_everything_on(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(training, "adapt", lambda library, src, tgt, options, progress: seen.update(vars(options)))
    lib = package.Library(tmp_path / "library")

    lib.adapt(
        "a", "b", method="itq", bits=32, settings={"iterations": 3, "flag": True}, seed=4, index=False, force=True
    )

    assert seen["settings"] == ("iterations=3", "flag=true")
    assert (seen["method"], seen["n_bits"], seen["seed"], seen["no_index"], seen["force"]) == ("itq", 32, 4, True, True)
    assert not (tmp_path / "library").exists()


def test_no_library_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(package.LibraryError) as failure:
        package.Library(tmp_path / "none").query("x.jpg")
    assert "hashcli adapt" in str(failure.value.hint)


def test_the_default_place_is_the_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("HASHCLI_LIBRARY", str(tmp_path / "here"))

    assert package.Library().path == Path(tmp_path / "here")
