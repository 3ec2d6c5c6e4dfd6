"""One environment for all users in a process: growth, damage, readers beside a writer."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import pytest

from hashcli.errors import DamagedError, LibraryError
from hashcli.lmdb_env import get, open_env


def test_the_map_grows_and_the_work_is_done_once(tmp_path):
    env = open_env(tmp_path / "e", write=True, map_size=1 << 16)
    env.write(lambda transaction: transaction.put(b"first", b"1"))

    def much(transaction):
        assert get(transaction, b"0") is None  # what a full map interrupted was undone
        for number in range(5000):
            transaction.put(b"%d" % number, bytes(200))

    env.write(much)

    with env.reading() as transaction:
        assert transaction.stat()["entries"] == 5001
        assert get(transaction, b"first") == b"1"


def test_readers_follow_growth_by_another_process(tmp_path):
    env = open_env(tmp_path / "e", write=True, map_size=1 << 16)
    env.write(lambda transaction: transaction.put(b"a", b"1"))
    script = """
import sys
from pathlib import Path
from hashcli.lmdb_env import open_env
env = open_env(Path(sys.argv[1]), write=True, map_size=1 << 16)
env.write(lambda t: [t.put(b"%d" % n, bytes(300)) for n in range(3000)])
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "e"], check=True)

    with env.reading() as transaction:
        assert get(transaction, b"2999") == bytes(300)
    env.write(lambda transaction: transaction.put(b"b", b"2"))


def test_a_folder_is_opened_once_and_closed_after_its_last_user(tmp_path):
    (tmp_path / "link").symlink_to("e")
    first = open_env(tmp_path / "e", write=True)
    second = open_env(tmp_path / "link", write=False)
    assert first is second
    del first, second
    gc.collect()

    reader = open_env(tmp_path / "e", write=False)
    assert not reader.writable
    assert open_env(tmp_path / "e", write=True) is reader
    reader.write(lambda transaction: transaction.put(b"a", b"1"))


def test_threads_read_while_another_makes_the_map_grow(tmp_path):
    env = open_env(tmp_path / "e", write=True, map_size=1 << 16)
    env.write(lambda transaction: transaction.put(b"a", b"1"))
    done, failures = threading.Event(), []

    def read():
        while not done.is_set():
            with env.reading() as transaction:
                if get(transaction, b"a") != b"1":
                    failures.append("a is gone")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(15):
        env.write(lambda transaction, n=number: transaction.put(b"%d" % n, bytes(80_000)))
    done.set()
    for thread in threads:
        thread.join()
    assert not failures


def test_damaged_files_are_told(tmp_path):
    for name, damage in {
        "cut": lambda d: d[: len(d) // 2],
        "short": lambda d: d[:100],
        "noise": lambda d: b"?" * 9999,
    }.items():
        env = open_env(tmp_path / name, write=True)
        env.write(lambda transaction: [transaction.put(b"%d" % n, bytes(900)) for n in range(300)])
        del env
        gc.collect()
        path = tmp_path / name / "data.mdb"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DamagedError, match=name):
            open_env(tmp_path / name, write=True)


def test_what_the_system_refuses_is_told(tmp_path):
    with pytest.raises(DamagedError):
        open_env(tmp_path / "absent", write=False)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(LibraryError):
        open_env(tmp_path / "file" / "e", write=True)
    assert os.listdir(tmp_path) == ["file"]
