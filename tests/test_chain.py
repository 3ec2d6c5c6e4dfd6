"""Tables whose entries name each other: they hold what a dict would, and say so when damage hides anything."""

from __future__ import annotations

import faulthandler
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from hashcli import guard
from hashcli.chain import END, Chain
from hashcli.errors import DamagedError


@contextmanager
def table(folder: Path, write: bool = False) -> Iterator[Chain]:
    with lmdb.open(str(folder), max_dbs=2, readonly=not write, map_size=1 << 24) as env:
        database = env.open_db(b"table", create=write)
        with env.begin(write=write, buffers=not write) as transaction:
            yield Chain(transaction, database, b"table", "the table")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with table(tmp_path, write=True) as chain:
        chain.create()
    return tmp_path


def keys(draw: random.Random, n: int) -> list[bytes]:
    """Some of them begin with others, all are short of `END`."""
    return sorted({draw.randbytes(draw.choice([1, 2, 3, 24]))[:24] for _ in range(n)} - {END})


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_changes_leaves_what_a_dict_would_hold(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    model: dict[bytes, bytes] = {}
    for _ in range(25):
        with table(folder, write=True) as chain:
            fresh = {key: draw.randbytes(draw.choice([0, 8])) for key in keys(draw, 40) if key not in model}
            chain.insert(sorted(fresh.items()))
            model |= fresh
            for key in draw.sample(sorted(model), len(model) // 3):
                chain.delete(key)
                del model[key]
        with table(folder) as chain:
            assert list(chain.range(b"")) == sorted(model.items())
            for key in [*model, *keys(draw, 50)]:
                assert chain.get(key) == model.get(key)
                assert list(chain.range(key[:1])) == sorted((k, v) for k, v in model.items() if k[:1] == key[:1])


def test_taking_out_what_is_not_there_is_damage(folder: Path) -> None:
    with table(folder, write=True) as chain:
        chain.insert([(b"a", b"1"), (b"c", b"2")])
        with pytest.raises(DamagedError):
            chain.delete(b"b")


def test_a_table_without_its_end_or_of_someone_else_is_damage(tmp_path: Path) -> None:
    with table(tmp_path, write=True) as chain:
        for ask in (lambda: chain.get(b"a"), lambda: list(chain.range(b"")), lambda: chain.insert([(b"a", b"")])):
            with pytest.raises(DamagedError, match="the table is damaged"):
                ask()


def test_whatever_bit_of_whatever_page_flips_no_entry_is_said_not_to_be_there(folder: Path) -> None:
    """Leaves, branches, and what LMDB knows of the table; LMDB itself finds many of them first."""
    draw = random.Random(5)
    model = {key: draw.randbytes(8) for key in keys(draw, 700)}
    model.pop(b"", None)
    with table(folder, write=True) as chain:
        chain.insert(sorted(model.items()))
    path = folder / "data.mdb"
    sound = path.read_bytes()
    asked = [*draw.sample(sorted(model), 40), *keys(draw, 20)]
    codes = Counter[int]()
    for _ in range(80):
        # the beginning of a page says where everything is; most of the rest are keys and values
        page = draw.randrange(2, len(sound) // 4096) * 4096
        place = page + draw.choice([draw.randrange(4096), draw.randrange(120)])
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), bytes([sound[place] ^ 1 << draw.randrange(8)]), place)
            codes[asking(folder, asked, model)] += 1
            os.pwrite(file.fileno(), sound[place : place + 1], place)
    assert set(codes) == {RIGHT, DAMAGED} and min(codes.values()) > 3, codes


RIGHT, WRONG, DAMAGED = 0, 1, DamagedError.exit_code


def asking(folder: Path, asked: list[bytes], model: dict[bytes, bytes]) -> int:
    """Ask in a process of its own: LMDB may end it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            faulthandler.disable()  # which also takes away what another test had guard set
            guard._handler = None
            guard.install()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with table(folder) as chain, guard.reading(folder):
                right = all(chain.get(key) == model.get(key) for key in asked)
                code = RIGHT if right and set(chain.range(b"")) <= set(model.items()) else WRONG
        except (DamagedError, lmdb.Error):
            code = DAMAGED
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
