"""Parts as the arrays of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from hashcli.collection import Collection
from hashcli.errors import UsageError
from hashcli.parts import Part
from hashcli.photos import PhotoFile
from hashcli.trials import Arrays


def part(*numbers: int) -> Part:
    files = [PhotoFile(b"/p", b"%d.png" % n, 1, 1, 1, n) for n in numbers]
    labels = [("mug",) for _ in numbers]
    digests = [bytes([n]) * 16 for n in numbers]
    features = np.ones((len(numbers), 4), np.float16)
    return Part(Collection(b"/p", files, [], labels), files, digests, labels, features, [])


def test_photos_that_another_part_holds_are_left_out_and_noted():
    arrays = Arrays(["mug"], False)

    trials, asked = arrays.trials(part(1, 2), part(2, 3, 4), part(4, 5), 0.5, 1, 0)

    assert (len(trials[0].target_features), asked.digests) == (2, [bytes([5]) * 16])
    assert arrays.notes == [
        "1 target photos are copies of others and are left out",
        "1 query photos are copies of others and are left out",
    ]


@pytest.mark.parametrize(
    ("target", "queries", "says"),
    [
        (part(1, 2), None, "all 2 target photos are copies"),
        (part(1, 2), part(3), "all 2 target photos are copies"),
        (part(2, 3), part(1, 3), "all 2 query photos are copies"),
    ],
)
def test_where_all_photos_are_copies_that_is_said(target, queries, says):
    with pytest.raises(UsageError, match=says):
        Arrays(["mug"], False).trials(part(1, 2), target, queries, 0.5, 1, 0)
