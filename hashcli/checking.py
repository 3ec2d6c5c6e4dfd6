"""Is a gallery what was written? Its values, and what they say of each other."""

from __future__ import annotations

from collections.abc import Iterator

from hashcli.errors import DamagedError
from hashcli.records import Record, path_key
from hashcli.tables import Tables


def contradictions(tables: Tables, capacity: int) -> Iterator[str]:
    """Every value that cannot be read, or that another one contradicts."""
    try:
        counts = tables.counts()
    except DamagedError as error:
        yield str(error)
        return
    roots = None
    try:
        roots = {root.id for root in tables.roots()}
    except DamagedError as error:
        yield str(error)
    n_records = 0
    for number in range(-(-counts.slots // capacity)):
        try:
            rows = tables.records_of(tables.block(number, counts.slots).verified())
        except DamagedError as error:
            yield str(error)
            continue
        n_records += len(rows)
        for slot, record in rows:
            yield from _of_photo(tables, slot, record, roots)
    try:
        found = {"photos": counts.photos, "records": n_records, **tables.indexed()}
        if len(set(found.values())) > 1:
            yield f"the gallery counts its photos in several ways: {found}"
    except DamagedError as error:
        yield str(error)


def _of_photo(tables: Tables, slot: int, record: Record, roots: set[int] | None) -> Iterator[str]:
    try:
        if tables.slot_at(path_key(record.root, record.path)) != slot:
            yield f"the photo in slot {slot} is not found by its path"
        if slot not in tables.slots_of(record.digest):
            yield f"the photo in slot {slot} is not found by its digest"
    except DamagedError as error:
        yield str(error)
    if roots is not None and record.root not in roots:
        yield f"the photo in slot {slot} belongs to root {record.root}, which is not known"
