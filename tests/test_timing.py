"""What the speed benchmarks share: turns, medians, targets, tables."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))  # where its scripts find each other when they are run
import timing
from timing import Row


def test_contenders_take_turns_and_every_other_round_goes_backwards():
    calls: list[str] = []
    ticks = iter(range(1000))
    contenders = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    seconds = timing.paired(contenders, rounds=3, clock=lambda: float(next(ticks)))
    assert "".join(calls) == "abc" + "cba" + "abc" + "cba"
    assert seconds == {name: [1.0, 1.0, 1.0] for name in "abc"}, "the first round does not count"


def test_rows_compare_medians_with_their_targets():
    row = timing.compared("what", {"a": [0.001, 0.003, 0.002], "b": [0.001, 0.004, 0.9]}, "a", "b", "ms", at_most=0.5)
    assert (row.ours, row.theirs, row.rounds) == (2.0, 4.0, 3)
    assert row.met and not Row("", "", 2.1, 4.0, "ms", at_most=0.5).met
    assert not Row("", "", 1, 4, "1/s", at_least=0.5).met and Row("", "", 150, None, "MB", at_most=150).met


def test_tables_say_which_targets_are_missed():
    rows = [Row("a search", "faiss", 1.5, 2, "ms", at_most=0.7), Row("memory", "", 123.4, None, "MB", at_most=150)]
    assert timing.table(rows).splitlines()[2:] == [
        "| a search | faiss | 1.5 ms | 2 ms | 0.75 | at most 0.7 (missed) |",
        "| memory |  | 123 MB |  |  | at most 150 |",
    ]


def test_a_table_goes_between_its_markers_and_nowhere_else():
    readme = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n<!-- y:begin -->\n<!-- y:end -->\n"
    assert timing.replaced(readme, "x", "new\n") == readme.replace("old", "new")
    with pytest.raises(ValueError, match="z:begin"):
        timing.replaced(readme, "z", "new\n")


def test_the_peak_of_a_command_is_its_own():
    large = bytearray(120_000_000)
    assert 40e6 < timing.peak_bytes([sys.executable, "-c", "x = b'x' * 30_000_000"]) < 80e6
    assert len(large)
