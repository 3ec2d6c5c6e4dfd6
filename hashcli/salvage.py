"""What can still be read of a damaged gallery, one photo at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hashcli.blocks import Block
from hashcli.codes import Words
from hashcli.errors import DamagedError
from hashcli.records import Record, Root, path_key
from hashcli.tables import Tables


class Salvaged(NamedTuple):
    """What is left of one block.

    records     photos with their codes `words` (n_words, n)
    codeless    photos whose codes are lost
    unreadable  slots whose photos, if they held any, are lost altogether
    """

    records: list[Record]
    words: Words
    codeless: list[Record]
    unreadable: int


def roots(tables: Tables) -> list[Root]:
    """The roots that can be read."""
    found = []
    for number in range(tables.entries("roots")):  # ids are given in order, and none is ever taken back
        try:
            found += tables.root(number)
        except DamagedError:
            continue
    return found


def slots(tables: Tables, capacity: int) -> int:
    """Slots given so far; where the count is lost, as many as all blocks could hold."""
    try:
        return tables.slots()
    except DamagedError:
        return tables.entries("blocks") * capacity


def block(tables: Tables, number: int, capacity: int) -> Salvaged:
    """What is left of block `number`. Raises DamagedError when the pages under it are lost."""
    total = slots(tables, capacity)
    whole = _whole(tables, number, total)
    live: NDArray[np.bool_] | None = whole.live() if whole else None
    found: dict[bytes, tuple[Record, int]] = {}
    unreadable = 0
    first = number * capacity
    for place in range(min(capacity, total - first)):
        if live is not None and not live[place]:
            continue
        try:
            record = tables.record_alone(first + place)
        except ValueError:  # removed
            continue
        except DamagedError:
            unreadable += 1
            continue
        found[path_key(record.root, record.path)] = record, place
    records, places = [record for record, _ in found.values()], [place for _, place in found.values()]
    if whole is None:
        return Salvaged([], np.empty((0, 0), np.uint64), records, unreadable)
    return Salvaged(records, whole.words[:, places], [], unreadable)


def _whole(tables: Tables, number: int, total: int) -> Block | None:
    try:
        return tables.block(number, total).verified()
    except DamagedError:
        return None
