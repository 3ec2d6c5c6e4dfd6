"""The search of a gallery: all its blocks pass by once, straight from the map, and each is checked on the way."""

from __future__ import annotations

from hashcli import blocks
from hashcli.scan import Ints, Mismatch, TopK
from hashcli.tables import Tables


def search(tables: Tables, capacity: int, top: TopK) -> list[tuple[Ints, Ints]]:
    """What `top` finds in blocks of `capacity` slots, as its `result`. Raises DamagedError."""
    total, header = tables.slots(), blocks.header_size(capacity)
    try:
        for number, value in enumerate(tables.block_values(total)):
            first = number * capacity
            slots = min(total - first, capacity)
            if value is None or not top.stored(number, first, slots, value, header):
                block = tables.decoded(number, value, total)
                top.block(first, block.planes, block.live(), block.sums)
        return top.result()
    except Mismatch as mismatch:
        raise blocks.lost(mismatch.slot // capacity) from None
