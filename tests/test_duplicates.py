"""Folding near-duplicates: which results stay, and how many go."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from hashcli import duplicates
from hashcli.library import Library
from hashcli.search import nearest
from tests import tiny


def features(*angles: float) -> list[np.ndarray | None]:
    return [np.float16([np.cos(a), np.sin(a)]) for a in angles]


def codes_of(*ones: int) -> np.ndarray:
    """Codes of 64 bits, the first `ones` of them set."""
    return np.stack([np.packbits(np.arange(64) < n, bitorder="little") for n in ones])


def test_near_in_code_and_in_look_is_folded_into_the_first():
    kept, folded = duplicates.fold(codes_of(0, 2, 30, 31), features(0, 0.01, 1.5, 1.51), top=None)

    assert (kept, folded) == ([0, 2], 2)


@pytest.mark.parametrize(("ones", "angles"), [((0, 9), (0, 0)), ((0, 0), (0, 0.4))])
def test_near_in_only_one_of_the_two_is_kept(ones, angles):
    assert duplicates.fold(codes_of(*ones), features(*angles), top=None) == ([0, 1], 0)


def test_a_result_whose_feature_is_unknown_is_kept_and_folds_nothing():
    assert duplicates.fold(codes_of(0, 0, 0), [*features(0), None, *features(0)], top=None) == ([0, 1], 1)


def test_folding_goes_on_until_enough_are_kept():
    angles = [0, 0.01, 0.02, 0.7, 0.71, 1.4, 1.41]

    assert duplicates.fold(codes_of(*[0] * 7), features(*angles), top=2) == ([0, 3], 2)


def test_unique_results_are_ranked_anew_and_filled_up(tmp_path, monkeypatch):
    monkeypatch.setattr("hashcli.identity.RACY_NS", 0)
    tiny.decode_here(monkeypatch)
    folder = tmp_path / "photos"
    for n in range(6):
        tiny.noise(folder / f"{n}.png", n)
    for copy in "abc":
        shutil.copy(folder / "3.png", folder / f"3{copy}.png")
    Image.open(folder / "3.png").resize((16, 16), Image.Resampling.NEAREST).save(folder / "3-large.png")
    library = Library.create(tmp_path / "library")
    tiny.adapt(library, tiny.backbone(tmp_path / "backbone"), [(folder, "tgt")])

    (result,) = nearest(library, [bytes(folder / "3.png")], top=4, include_self=True, unique=True)

    assert [match.rank for match in result.matches] == [1, 2, 3, 4]
    assert len({match.path.rsplit(b"/", 1)[1][:1] for match in result.matches}) == 4
    assert result.folded == 4
