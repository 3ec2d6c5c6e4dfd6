"""Is a gallery what was written? Its values, and what they say of each other."""

from __future__ import annotations

from collections.abc import Iterator

from hashcli.errors import DamagedError
from hashcli.records import Record, path_key
from hashcli.tables import Tables


def contradictions(tables: Tables, capacity: int) -> Iterator[str]:
    """Every value that cannot be read, or that another one contradicts."""
    try:
        roots = {root.id for root in tables.roots()}
        total = tables.slots()
    except DamagedError as error:
        yield str(error)
        return
    for number in range(-(-total // capacity)):
        try:
            rows = tables.records_of(tables.block(number, total).verified())
        except DamagedError as error:
            yield str(error)
            continue
        for slot, record in rows:
            yield from _of_photo(tables, slot, record, roots)
    counts = {name: tables.entries(name) for name in ("records", "paths", "digests")}
    if len(set(counts.values())) > 1:
        yield f"the gallery counts its photos in several ways: {counts}"


def _of_photo(tables: Tables, slot: int, record: Record, roots: set[int]) -> Iterator[str]:
    try:
        if tables.slot_at(path_key(record.root, record.path)) != slot:
            yield f"the photo in slot {slot} is not found by its path"
        if slot not in tables.slots_of(record.digest):
            yield f"the photo in slot {slot} is not found by its digest"
    except DamagedError as error:
        yield str(error)
    if record.root not in roots:
        yield f"the photo in slot {slot} belongs to root {record.root}, which is not known"
