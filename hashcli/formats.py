"""Result tables for scripts: tsv, csv, jsonl and bare paths, byte for byte the same in every locale.

A table is column names and rows of cells. A cell of bytes is a path. In tsv and csv whatever could break a line,
a column or a terminal is escaped as `photos.escape` does it; jsonl is pure ASCII, and a path that is not UTF-8
comes there escaped, with its true bytes in base64 beside it (`path` and `path_bytes`); `paths` is raw. Each line of
jsonl says the version of its schema.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

from hashcli.photos import escape

Cell = bytes | str | int | float | None
Row = Sequence[Cell]
JSONL_VERSION = 1


def write(
    out: BinaryIO, form: str, columns: Sequence[str], rows: Iterable[Row], *, header: bool = False, null: bool = False
) -> None:
    """Write the table to `out` in one of the forms tsv, csv, jsonl, paths, each row as soon as it comes.

    `header` puts the column names first (tsv, csv). `null` ends each path with a NUL byte (paths). Raises
    ValueError for another form, or for `paths` of a table that has no column `path`.
    """
    if form == "jsonl":
        for row in rows:
            out.write(json.dumps(_record(columns, row)).encode("ascii") + b"\n")
    elif form == "paths":
        path = columns.index("path")
        for row in rows:
            cell = row[path]
            assert isinstance(cell, bytes)
            out.write(cell + (b"\0" if null else b"\n"))
    elif form in ("tsv", "csv"):
        line = _csv_line if form == "csv" else _tsv_line
        if header:
            out.write(line(columns))
        for row in rows:
            out.write(line([text(cell) for cell in row]))
    else:
        raise ValueError(f"no form is called {form!r}")
    out.flush()


def text(cell: Cell) -> str:
    """A cell as one harmless line of text: floats with four decimals, nothing for None and NaN."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float):
        return f"{cell:.4f}"
    if isinstance(cell, int):
        return str(cell)
    return escape(cell if isinstance(cell, bytes) else cell.encode("utf-8", "surrogateescape"))


def photo_failure(path: bytes, reason: str) -> dict[str, object]:
    """One line of a --report file, as a record for JSON."""
    return {"version": JSONL_VERSION, **_path("path", path), "reason": reason}


def _record(columns: Sequence[str], row: Row) -> Mapping[str, object]:
    record: dict[str, object] = {"version": JSONL_VERSION}
    for name, cell in zip(columns, row, strict=True):
        if isinstance(cell, bytes):
            record.update(_path(name, cell))
        elif isinstance(cell, float):
            record[name] = None if math.isnan(cell) else round(cell, 4)
        else:
            record[name] = cell
    return record


def _path(name: str, path: bytes) -> dict[str, str]:
    try:
        return {name: path.decode("utf-8")}
    except UnicodeDecodeError:
        return {name: escape(path), f"{name}_bytes": base64.b64encode(path).decode("ascii")}


def _tsv_line(cells: Sequence[str]) -> bytes:
    return ("\t".join(cells) + "\n").encode()


def _csv_line(cells: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()
