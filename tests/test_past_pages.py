"""Page numbers in a gallery's file that become those of other whole pages, older copies above all.

Such a page is sound in itself; what it says is from the past, or of another table. A reader must notice.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import random
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hashcli import gallery, guard
from hashcli.errors import DamagedError, HashcliError
from hashcli.gallery import Gallery, Record

PAGE, N_BITS = 4096, 64
RIGHT, WRONG, DAMAGED = 0, 1, DamagedError.exit_code


class Pointer(NamedTuple):
    """Where in the file the number of a page is, in how many bytes, and which page."""

    place: int
    size: int
    page: int


def pointers(data: bytes) -> list[Pointer]:
    """Every page number in the trees of the newest state of an LMDB 0.9 file."""
    newest = max((0, PAGE), key=lambda meta: struct.unpack_from("=Q", data, meta + 144))
    found = []
    todo = [newest + 128]
    while todo:
        place = todo.pop()
        (page,) = struct.unpack_from("=Q", data, place)
        if page == 2**64 - 1:
            continue
        found.append(Pointer(place, 8, page))
        found += children(data, page, todo)
    return found


def children(data: bytes, page: int, trees: list[int]) -> Iterator[Pointer]:
    """What a page and those below it point to; the places of the roots of other trees go to `trees`."""
    flags, lower = struct.unpack_from("=HH", data, page * PAGE + 10)
    for node in struct.unpack_from(f"={(lower - 16) // 2}H", data, page * PAGE + 16):
        place = page * PAGE + node
        low, high, more, key_size = struct.unpack_from("=4H", data, place)
        value = place + 8 + key_size
        if flags & 1:  # a branch
            child = low | high << 16 | more << 32
            yield Pointer(place, 6, child)
            yield from children(data, child, trees)
        elif more & 1:  # a value in pages of its own
            yield Pointer(value, 8, *struct.unpack_from("=Q", data, value))
        elif more & 2:  # a tree
            trees.append(value + 40)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gallery with a past: photos were added, removed, moved, touched and appended anew in many transactions."""
    monkeypatch.setattr(gallery, "BLOCK_SLOTS", 64)
    draw, rng = random.Random(3), np.random.default_rng(3)
    with Gallery.create(tmp_path / "gallery", N_BITS, "digest") as made:
        number = made.add_root(b"/before", "tgt")
        made.append([photo(i) for i in range(0, 300, 3)], rng.integers(0, 256, (100, 8), dtype=np.uint8))
        for _ in range(12):
            held = list(made.scan())
            kinds = [draw.sample(held, 4) for _ in range(3)]
            made.remove([slot for slot, _ in kinds[0]])
            there = dict(made.scan())
            made.replace_records([(s, dataclasses.replace(r, path=name(draw))) for s, r in kinds[1] if s in there])
            there = dict(made.scan())
            made.replace_records([(s, dataclasses.replace(there[s], mtime_ns=-s)) for s, _ in kinds[2] if s in there])
            fresh = {r.path: r for r in (photo(draw.randrange(300)) for _ in range(8))}
            made.append(list(fresh.values()), rng.integers(0, 256, (len(fresh), 8), dtype=np.uint8))
        made.set_root(gallery.Root(number, b"/photos", "tgt"))
    return tmp_path / "gallery"


def photo(number: int) -> Record:
    content = random.Random(number % 250).randbytes(16)
    return Record(0, b"folder/%05d.jpg" % number, number, number, content, None, "tgt")


def name(draw: random.Random) -> bytes:
    return b"moved/%d.jpg" % draw.randrange(10**6)


def answers(folder: Path) -> Iterator[tuple[Any, ...]]:
    """Questions and answers, one by one; those that damage keeps from being answered say so."""
    with Gallery.open(folder) as opened:
        asks = {
            "roots": lambda: opened.roots(),
            "count": lambda: opened.count(),
            "scan": lambda: list(opened.scan()),
            "search": lambda: [s.tolist() for s, _ in opened.search(np.zeros((1, 8), np.uint8), 30)],
        }
        asks |= {f"record {slot}": lambda slot=slot: opened.records([slot]) for slot in range(opened.info().slots)}
        asks |= {f"path {i}": lambda i=i: opened.slot_of(0, photo(i).path) for i in range(300)}
        for question, ask in asks.items():
            try:
                yield question, ask()
            except DamagedError:
                yield question, "damaged"
            except ValueError as error:
                yield question, str(error)


def tried(folder: Path, sound: dict[str, Any]) -> tuple[int, bytes]:
    """Ask in a process of its own: LMDB may end it. RIGHT, WRONG or DAMAGED, and the first wrong answer."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            faulthandler.disable()
            guard._handler = None
            guard.install()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = RIGHT
            for question, answer in answers(folder):
                if answer == "damaged":
                    code = max(code, DAMAGED) if code != WRONG else WRONG
                elif answer != sound[question]:
                    os.write(writing, f"{question}: {answer!r} for {sound[question]!r}"[:600].encode())
                    code = WRONG
                    break
        except HashcliError:
            code = DAMAGED
        finally:
            os._exit(code)
    os.close(writing)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reading, "rb") as pipe:
        return code, pipe.read()


@pytest.mark.parametrize("n_attacks", [60, pytest.param(10**6, marks=pytest.mark.slow)])
def test_no_page_of_the_past_or_of_another_table_gives_a_wrong_answer(folder: Path, n_attacks: int) -> None:
    path = folder / "data.mdb"
    data = path.read_bytes()
    sound = dict(answers(folder))
    draw = random.Random(1)
    attacks = [(p, other) for p in pointers(data) for other in range(2, len(data) // PAGE) if other != p.page]
    codes = Counter[int]()
    wrong = []
    for pointer, other in draw.sample(attacks, min(len(attacks), n_attacks)):
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), other.to_bytes(pointer.size, "little"), pointer.place)
            code, what = tried(folder, sound)
            os.pwrite(file.fileno(), data[pointer.place : pointer.place + pointer.size], pointer.place)
        codes[code] += 1
        if code not in (RIGHT, DAMAGED):
            wrong.append((pointer, other, code, what))
    assert dict(answers(folder)) == sound
    assert not wrong, wrong[:10]
    assert min(codes[RIGHT], codes[DAMAGED]) > 5, codes
