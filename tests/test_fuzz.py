"""The fuzzer's targets for a moment, without the fuzzer: their own inputs, each damaged in a few ways."""

from __future__ import annotations

import random

import pytest

from campaigns.fuzz_targets import TARGETS


def changed(data: bytes, draw: random.Random) -> bytes:
    """Bytes overwritten, taken out, doubled, or cut off."""
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 3])):
        place, size = draw.randrange(len(out) + 1), draw.choice([1, 1, 4, 40])
        kind = draw.randrange(5)
        if kind == 0:
            out[place : place + size] = draw.randbytes(size)
        elif kind == 1:
            del out[place : place + size]
        elif kind == 2:
            out[place:place] = out[place : place + size]
        elif kind == 3 and out:
            out[place % len(out)] ^= 1 << draw.randrange(8)
        else:
            out[place : place + size] = draw.choice([b"\xff", b"\0"]) * size
    return bytes(out)


@pytest.mark.parametrize("name", TARGETS)
def test_readers_answer_or_raise_what_they_promise_whatever_they_are_given(name, tmp_path):
    target = TARGETS[name](tmp_path)
    draw = random.Random(7)
    for data in target.corpus:
        target.run(data)
    for _ in range(50):
        data = draw.choice(target.corpus)
        target.run(data[:1] + changed(data[1:], draw) if name != "photo" else changed(data, draw))
