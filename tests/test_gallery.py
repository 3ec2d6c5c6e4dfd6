"""The gallery on disk: what any store must do, what damage must show, and what LMDB must not do to us."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hashcli import blocks, environment, gallery, mounts, pages, scan, seals
from hashcli.errors import DamagedError, LibraryError, MachineError, NewerFormatError, UsageError
from hashcli.gallery import Gallery, Record, Root
from hashcli.records import path_key, slot_key

N_BITS = 72


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks from a handful of photos."""
    monkeypatch.setattr(gallery, "BLOCK_SLOTS", 16)


@pytest.fixture(params=[Gallery])
def store(request, tmp_path):
    """An empty store of codes of N_BITS bits; another engine would join the list."""
    made = request.param.create(tmp_path / "store", N_BITS, "digest of the hasher")
    yield made
    made.close()


def record(number, root=0, **changes):
    plain = Record(root, b"%05d.jpg" % number, 1000 + number, -number, number.to_bytes(16, "big"), None, "tgt")
    return dataclasses.replace(plain, **changes)


def random_codes(rng, n, n_bits=N_BITS):
    return rng.integers(0, 256, (n, n_bits // 8), dtype=np.uint8)


# ---- what any store must do


def test_an_empty_store_finds_nothing_and_says_what_it_is(store, rng):
    assert store.count() == 0
    assert store.n_bits == N_BITS
    assert store.hasher_digest == "digest of the hasher"
    assert list(store.scan()) == store.roots() == store.slots_of_digest(bytes(16)) == []
    assert store.slot_of(0, b"a") is None
    assert [len(slots) for slots, _ in store.search(random_codes(rng, 2), 5)] == [0, 0]
    assert store.append([], random_codes(rng, 0)).tolist() == []


def test_what_went_in_comes_out(store, rng):
    odd = [
        record(0, path=b"\xff\xfe odd \n bytes.jpg", label="\udcff label é", domain="src"),
        record(1, path=b"d/" * 2000 + b"deep.jpg", label=""),
        record(2, size=2**40, mtime_ns=-(2**62)),
        record(3, path=b"d/" * 2000 + b"deeq.jpg", root=7),
    ]
    packed = random_codes(rng, 4)

    slots = store.append(odd, packed)

    assert slots.tolist() == [0, 1, 2, 3]
    assert store.records(slots) == odd
    assert list(store.scan()) == list(enumerate(odd))
    assert [store.slot_of(r.root, r.path) for r in odd] == [0, 1, 2, 3]
    assert_array_equal(store.codes([2, 0, 2]), packed[[2, 0, 2]])


def test_paths_are_those_of_the_records(store, rng):
    records = [record(i) for i in range(40)]
    slots = store.append(records, random_codes(rng, 40))
    store.remove(slots[::3])
    left = np.setdiff1d(slots, slots[::3])
    assert store.paths(left) == [(records[slot].root, records[slot].path) for slot in left]
    with pytest.raises(ValueError, match="slot 3 holds no photo"):
        store.paths([1, 3])


def test_slots_are_never_given_twice(store, rng):
    store.append([record(i) for i in range(20)], random_codes(rng, 20))
    store.remove(range(20))

    slots = store.append([record(0)], random_codes(rng, 1))

    assert slots.tolist() == [20]
    assert store.info().slots == 21
    assert store.count() == 1


def test_a_path_appended_again_passes_to_its_new_slot(store, rng):
    packed = random_codes(rng, 3)
    store.append([record(0), record(1)], packed[:2])
    store.append([record(0, size=5)], packed[2:])

    assert store.slot_of(0, record(0).path) == 2
    assert [slot for slot, _ in store.scan()] == [1, 2]
    assert 0 not in store.search(packed[:1], 9)[0][0]
    assert store.slots_of_digest(record(0).digest) == [2]


def test_photos_that_move_keep_slot_and_code_and_may_trade_places(store, rng):
    packed = random_codes(rng, 3)
    store.append([record(0), record(1), record(2)], packed)

    store.replace_records([(0, record(1, digest=record(0).digest)), (1, record(0, digest=record(1).digest))])
    store.replace_records([(0, record(2, digest=record(0).digest))])

    assert [store.slot_of(0, record(i).path) for i in range(3)] == [1, None, 0]
    assert store.count() == 2, "the photo that was there has gone"
    assert_array_equal(store.codes([0, 1]), packed[:2])
    assert store.search(packed[:1], 1)[0][0].tolist() == [0]
    assert store.slots_of_digest(record(0).digest) == [0]
    assert store.slots_of_digest(record(2).digest) == []


def test_roots_keep_their_ids(store):
    assert store.add_root(b"/photos/a", "src") == 0
    assert store.add_root(b"/photos/\xff", "tgt") == 1
    assert store.add_root(b"/photos/a", "tgt") == 0
    assert store.roots() == [Root(0, b"/photos/a", "tgt"), Root(1, b"/photos/\xff", "tgt")]


@pytest.mark.parametrize(
    "misuse",
    [
        lambda store, packed: store.append([record(0)], packed),
        lambda store, packed: store.append([record(0), record(0)], packed),
        lambda store, packed: store.append([record(0), record(1, digest=b"short")], packed),
        lambda store, packed: store.append([record(0), record(1, path=b"")], packed),
        lambda store, packed: store.append([record(0), record(1)], packed[:, :4]),
        lambda store, packed: store.remove([5, 99]),
        lambda store, packed: store.remove([-1]),
        lambda store, packed: store.replace_records([(99, record(0))]),
        lambda store, packed: store.records([99]),
        lambda store, packed: store.codes([99]),
        lambda store, packed: store.codes([-1]),
        lambda store, packed: store.search(packed[:, :4], 1),
        lambda store, packed: store.search(packed, None, None),
    ],
)
def test_misuse_is_a_value_error_and_changes_nothing(store, rng, misuse):
    before = [record(i) for i in range(5, 15)]
    store.append(before, random_codes(rng, 10))

    with pytest.raises(ValueError, match=r".+"):
        misuse(store, random_codes(rng, 2))

    assert [r for _, r in store.scan()] == before
    assert store.info().slots == 10


# ---- damage


@pytest.fixture
def folder(tmp_path, rng):
    """A closed gallery of 100 photos in seven blocks, three of them removed."""
    with Gallery.create(tmp_path / "gallery", N_BITS, "digest") as made:
        made.add_root(b"/photos", "tgt")
        made.append([record(i, label="a label") for i in range(100)], random_codes(rng, 100))
        made.remove([3, 40, 99])
    return tmp_path / "gallery"


def read_all(folder):
    """Every byte that counts."""
    with Gallery.open(folder) as opened:
        info = dataclasses.replace(opened.info(), size_bytes=0)  # the system says what a file takes when it has written
        everything = [opened.roots(), list(opened.scan()), info, opened.codes(range(100)).tobytes()]
        for slot, found in everything[1]:
            assert opened.slot_of(0, found.path) == slot
            assert opened.slots_of_digest(found.digest) == [slot]
        # what lies behind the last entry of an index is read by those who find nothing there
        assert opened.slot_of(0xFFFFFFFF, b"z") is None and opened.slots_of_digest(b"\xff" * 16) == []
        answers = opened.search(np.zeros((1, N_BITS // 8), np.uint8), 200)
        return [*everything, [(slots.tolist(), distances.tolist()) for slots, distances in answers]]


def change(folder, database, key, value):
    """Write behind the gallery's back."""
    with lmdb.open(str(folder), max_dbs=8) as env:
        db = env.open_db(database, create=False)
        with env.begin(write=True) as txn:
            assert txn.put(key, value, db=db) if value is not None else txn.delete(key, db=db)


def values(folder):
    with lmdb.open(str(folder), max_dbs=8, readonly=True) as env:
        names = [b"blocks", b"records", b"paths", b"digests", b"roots", b"meta"]
        dbs = {name: env.open_db(name, create=False) for name in names}
        with env.begin() as txn:
            return [(name, key, value) for name, db in dbs.items() for key, value in txn.cursor(db)]


def test_every_flipped_bit_of_every_kind_of_value_is_damage(folder):
    draw = random.Random(1)
    stored = values(folder)
    for name in dict.fromkeys(name for name, _, _ in stored):
        entries = [(key, value) for kind, key, value in stored if kind == name]
        chosen = draw.sample(entries, min(3, len(entries)))
        for key, value in [*chosen, *(entry for entry in entries[-1:] if entry not in chosen)]:
            for place in {0, 1, 4, 9, 13, len(value) - 1, *draw.choices(range(len(value)), k=6)} & set(
                range(len(value))
            ):
                flipped = bytearray(value)
                flipped[place] ^= 1 << draw.randrange(8)
                change(folder, name, key, bytes(flipped))
                with pytest.raises((DamagedError, NewerFormatError)) as caught:
                    read_all(folder)
                assert "repair" in caught.value.hint
            change(folder, name, key, value)
    read_all(folder)


def test_verify_finds_what_single_reads_cannot_see(folder):
    with Gallery.open(folder) as opened:
        assert opened.verify() == []
    stored = {(name, key): value for name, key, value in values(folder)}
    losses = [
        (b"paths", next(k for n, k in stored if n == b"paths"), "index of paths is damaged: an entry is missing"),
        (b"records", (5).to_bytes(8, "big"), "records are not those"),
        (b"roots", bytes(4), "list of roots is damaged: it has 0 of 1"),
        (b"blocks", blocks.key(3), "block 3"),
    ]
    for name, key, message in losses:
        change(folder, name, key, None)
        with Gallery.open(folder) as opened:
            assert any(message in problem for problem in opened.verify())
        change(folder, name, key, stored[name, key])
    change(folder, b"digests", record(7).digest + (7).to_bytes(8, "big"), None)
    with Gallery.open(folder) as opened:
        assert any("index of contents is damaged: an entry is missing" in problem for problem in opened.verify())


def test_a_photo_or_root_that_a_damaged_page_hides_is_never_said_not_to_be_there(folder, rng):
    stored = {(name, key): value for name, key, value in values(folder)}
    hidden = [
        (b"paths", path_key(0, record(7).path), lambda opened: opened.slot_of(0, record(7).path)),
        (b"paths", path_key(0, record(7).path), lambda opened: list(opened.slots_by_path(0))),
        (b"digests", record(7).digest + slot_key(7), lambda opened: opened.slots_of_digest(record(7).digest)),
        (b"roots", bytes(4), lambda opened: opened.roots()),
        (b"meta", b"counts", lambda opened: opened.search(random_codes(rng, 1), 3)),
        (b"meta", b"counts", lambda opened: opened.count()),
    ]
    for name, key, ask in hidden:
        change(folder, name, key, None)
        with Gallery.open(folder) as opened, pytest.raises(DamagedError):
            ask(opened)
        change(folder, name, key, stored[name, key])
    read_all(folder)


def test_a_live_photo_without_record_is_damage_and_a_removed_one_is_not(folder):
    change(folder, b"records", (5).to_bytes(8, "big"), None)
    with Gallery.open(folder) as opened:
        with pytest.raises(DamagedError, match="record of slot 5"):
            opened.records([5])
        with pytest.raises(DamagedError, match="block 0"):
            list(opened.scan())
        with pytest.raises(ValueError, match="slot 3 holds no photo"):
            opened.records([3])


def test_flipped_bits_anywhere_in_the_file_are_found_by_verify_or_change_nothing(folder):
    """Pages that LMDB no longer uses may change as they like."""
    data = (folder / "data.mdb").read_bytes()
    whole, draw = read_all(folder), random.Random(8)
    for _ in range(60):
        changed = bytearray(data)
        place = draw.choice(
            [draw.randrange(8192, len(data)), draw.randrange(2, len(data) // 4096) * 4096 + draw.randrange(40)]
        )
        changed[place] ^= 1 << draw.randrange(8)
        (folder / "data.mdb").write_bytes(changed)
        found = pages.structure(folder / "data.mdb")
        if not found:
            try:
                with Gallery.open(folder) as opened:
                    found = opened.verify()
                if not found:
                    assert read_all(folder) == whole
            except (DamagedError, NewerFormatError):
                pass


def test_values_in_each_others_place_are_damage(folder):
    stored = values(folder)
    for name in (b"blocks", b"records", b"paths"):
        (one, mine), (_, theirs) = [(key, value) for kind, key, value in stored if kind == name][:2]
        change(folder, name, one, theirs)
        with pytest.raises(DamagedError):
            read_all(folder)
        change(folder, name, one, mine)


def test_a_lost_block_or_format_is_damage(folder):
    for name, key, what in [(b"blocks", blocks.key(2), "block 2"), (b"meta", b"format", "format")]:
        value = next(value for kind, k, value in values(folder) if (kind, k) == (name, key))
        change(folder, name, key, None)
        with pytest.raises(DamagedError, match=what):
            read_all(folder)
        change(folder, name, key, value)


def test_appending_to_a_damaged_block_does_not_seal_the_damage(folder, rng):
    key = blocks.key(6)  # the last one, which an append writes again
    value = bytearray(next(value for name, k, value in values(folder) if (name, k) == (b"blocks", key)))
    value[-5] ^= 1
    change(folder, b"blocks", key, bytes(value))
    with Gallery.open(folder, write=True) as opened:
        with pytest.raises(DamagedError, match="block 6"):
            opened.append([record(200)], random_codes(rng, 1))
        opened.remove([98])
        with pytest.raises(DamagedError, match="block 6"):
            opened.search(random_codes(rng, 1), 1)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.3, 0.7, 0.99])
def test_a_cut_file_is_damage_and_never_a_bus_error(folder, share):
    data = folder / "data.mdb"
    os.truncate(data, int(data.stat().st_size * share))
    with pytest.raises(DamagedError, match=r"data\.mdb"):
        Gallery.open(folder)


@pytest.mark.parametrize("found, whole", [([], True), (["page 9 is gone"], False), (None, False)])
def test_a_short_file_is_whole_only_when_nothing_but_free_pages_is_missing(folder, monkeypatch, found, whole):
    """As a writer leaves it that is killed before it can fill the file up; its pages are looked at one by one."""
    data = folder / "data.mdb"
    before = data.read_bytes()[:-4096]
    data.write_bytes(before)
    monkeypatch.setattr(pages, "structure", lambda data: found)
    if not whole:
        with pytest.raises(DamagedError, match="cut from"):
            pages.check_file(data)
        return
    pages.check_file(data)
    pages.fill_up(data)
    assert data.read_bytes() == before + bytes(4096)


def test_a_file_that_grows_while_it_is_looked_at_is_not_damage(folder, monkeypatch):
    """A writer may commit between any two steps of a look, and fills its file up a moment after its commit."""
    data = folder / "data.mdb"
    whole = data.read_bytes()
    fstat = os.fstat

    def grown(descriptor):
        data.write_bytes(whole)
        return fstat(descriptor)

    os.truncate(data, len(whole) - 4096)
    with monkeypatch.context() as patch:
        patch.setattr(pages.os, "fstat", grown)
        pages.check_file(data)

    os.truncate(data, len(whole) - 4096)
    monkeypatch.setattr(pages.time, "sleep", lambda wait: data.write_bytes(whole) if wait else None)
    pages.check_file(data)


@pytest.mark.parametrize("garbage", [b"", b"no database", b"\0" * 65536, random.Random(2).randbytes(65536)])
def test_garbage_instead_of_the_file_is_damage(folder, garbage):
    (folder / "data.mdb").write_bytes(garbage)
    with pytest.raises(DamagedError, match=r"data\.mdb"):
        Gallery.open(folder)


def test_missing_files_are_damage(folder):
    for name in ("counter", "data.mdb"):
        (folder / name).rename(folder / "away")
        with pytest.raises(DamagedError, match=f"{name} is missing"):
            Gallery.open(folder)
        (folder / "away").rename(folder / name)


def test_a_database_of_someone_else_is_damage(tmp_path, folder):
    with lmdb.open(str(tmp_path / "foreign"), max_dbs=8) as env, env.begin(write=True) as txn:
        txn.put(b"a", b"b")
    (tmp_path / "foreign" / "counter").write_bytes((folder / "counter").read_bytes())
    with pytest.raises(DamagedError):
        Gallery.open(tmp_path / "foreign")


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"version": 2}, NewerFormatError, "hashcli-gallery 2; this hashcli reads up to 1"),
        ({"format": "other"}, DamagedError, "not hashcli-gallery"),
        ({"version": "1"}, DamagedError, "not hashcli-gallery"),
        ({"n_bits": 2**40}, DamagedError, "cannot be"),
        ({"n_bits": 20}, DamagedError, "cannot be"),
        ({"block_slots": 12}, DamagedError, "cannot be"),
        ({"block_slots": 2**40}, DamagedError, "cannot be"),
        ({"hasher_digest": 5}, DamagedError, "cannot be"),
    ],
)
def test_formats_that_this_version_does_not_read_are_refused(folder, changed, error, message):
    header = json.loads(next(value for _, key, value in values(folder) if key == b"format")[:-4]) | changed
    change(folder, b"meta", b"format", seals.seal(b"format", json.dumps(header).encode()))
    with pytest.raises(error, match=message):
        Gallery.open(folder)


@pytest.mark.parametrize("name", [b"counter", b"counts"])
@pytest.mark.parametrize("payload", [b"", b"1", bytes(9), b"\xff" * 24])
def test_forged_counts_are_damage_and_nothing_is_allocated_for_them(folder, rng, name, payload):
    change(folder, b"meta", name, seals.seal(name, payload))
    with pytest.raises(DamagedError):
        read_all(folder)


def test_a_rolled_back_file_is_damage_and_one_ahead_of_its_counter_is_not(folder, rng):
    old = {name: (folder / name).read_bytes() for name in ("data.mdb", "counter")}
    with Gallery.open(folder, write=True) as opened:
        opened.append([record(500)], random_codes(rng, 1))
    new = (folder / "data.mdb").read_bytes()

    (folder / "data.mdb").write_bytes(old["data.mdb"])
    with pytest.raises(DamagedError, match="older state") as caught:
        Gallery.open(folder)
    assert "library repair" in caught.value.hint

    (folder / "data.mdb").write_bytes(new)
    (folder / "counter").write_bytes(old["counter"])  # as after a crash between the two
    with Gallery.open(folder) as opened:
        assert opened.slot_of(0, record(500).path) == 100


def test_a_lost_meta_page_is_damage(folder, rng):
    """LMDB would go on from the older of its two meta pages without a word."""
    data = (folder / "data.mdb").read_bytes()
    newest = max((0, 4096), key=lambda page: struct.unpack_from("=Q", data, page + 144)[0])
    older = struct.unpack_from("=Q", data, newest + 144)[0] - 2
    with open(folder / "data.mdb", "r+b") as file:
        file.seek(newest + 144)
        file.write(struct.pack("=Q", older))
    with pytest.raises(DamagedError):
        read_all(folder)


# ---- living with LMDB


def test_the_map_grows_by_itself_for_writer_and_readers(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(environment, "SMALLEST_MAP", 1 << 17)
    monkeypatch.setattr(gallery, "_BYTES_PER_PHOTO", 0)  # let LMDB find out
    n = 3000
    records, packed = [record(i) for i in range(n)], random_codes(rng, n)
    with Gallery.create(tmp_path / "g", N_BITS, "d") as made, in_other_process(tmp_path / "g") as ask:
        assert ask("count()") == "0"
        for start in range(0, n, 500):
            made.append(records[start : start + 500], packed[start : start + 500])
        assert ask("count()") == str(n)
        assert ask(f"search(codes([{n - 1}]), 1)[0][1].tolist()") == "[0]"
        assert list(made.scan()) == list(enumerate(records))


class in_other_process:
    """A process that has opened a gallery and evaluates expressions on it."""

    def __init__(self, folder):
        program = (
            "import sys; from pathlib import Path; from hashcli.gallery import Gallery\n"
            "g = Gallery.open(Path(sys.argv[1]))\n"
            "names = {n: getattr(g, n) for n in dir(g) if n[0] != '_'}\n"
            "for line in sys.stdin: print(eval(line, names), flush=True)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self):
        def ask(expression):
            self.process.stdin.write(expression + "\n")
            self.process.stdin.flush()
            return self.process.stdout.readline().strip()

        return ask

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0


def test_a_snapshot_stays_what_it_was_while_another_process_writes(folder, rng):
    write = (
        "import sys; from pathlib import Path; import numpy as np; from hashcli.gallery import Gallery, Record\n"
        "with Gallery.open(Path(sys.argv[1]), write=True) as g:\n"
        "    g.remove(range(50, 60))\n"
        "    new = [Record(0, b'n%d' % i, 1, 1, bytes(16), None, 'src') for i in range(40)]\n"
        "    g.append(new, np.zeros((40, 9), np.uint8))"
    )
    zeros = np.zeros((1, N_BITS // 8), np.uint8)
    with Gallery.open(folder) as opened:
        with opened.snapshot():
            before = (opened.search(zeros, 200)[0][0].tolist(), list(opened.scan()), opened.info().slots)
            subprocess.run([sys.executable, "-c", write, folder], check=True)
            assert (opened.search(zeros, 200)[0][0].tolist(), list(opened.scan()), opened.info().slots) == before
        assert opened.info().slots == 140
        assert opened.count() == 127


def test_one_process_may_open_a_gallery_several_times(folder, rng):
    with Gallery.open(folder) as reader, Gallery.open(folder, write=True) as writer, Gallery.open(folder) as third:
        writer.append([record(300)], random_codes(rng, 1))
        assert reader.count() == third.count() == 98
        writer.close()
        assert third.slot_of(0, record(300).path) == 100
        writer._environment._users += 1  # the block below closes it again


def test_threads_may_search_while_another_one_appends(folder, rng):
    queries, fresh = random_codes(rng, 2), random_codes(rng, 300)
    with Gallery.open(folder, write=True) as opened:
        errors = []

        def search():
            try:
                for _ in range(30):
                    assert len(opened.search(queries, 5)[0][0]) == 5
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        for i in range(30):
            opened.append([record(1000 + 10 * i + j) for j in range(10)], fresh[10 * i : 10 * i + 10])
        for thread in threads:
            thread.join()
        assert not errors


def test_a_failed_transaction_leaves_no_trace(folder, rng, monkeypatch):
    with Gallery.open(folder, write=True) as opened:
        before = (list(opened.scan()), opened.info().slots)
        monkeypatch.setattr(blocks, "encode", lambda block: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            opened.append([record(0), record(700)], random_codes(rng, 2))
        monkeypatch.undo()
        assert (list(opened.scan()), opened.info().slots) == before


def test_a_killed_writer_leaves_the_last_whole_state(tmp_path, rng):
    program = (
        "import sys; from pathlib import Path; import numpy as np; from hashcli.gallery import Gallery, Record\n"
        "g = Gallery.create(Path(sys.argv[1]), 72, 'd'); n = 0\n"
        "while True:\n"
        "    g.append([Record(0, b'%d' % (n + i), 1, 1, bytes(16), None, 'src') for i in range(7)],\n"
        "             np.full((7, 9), n % 251, np.uint8)); n += 7; print(n, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path / "g"], stdout=subprocess.PIPE, text=True)
    said = [process.stdout.readline() for _ in range(20)][-1]
    process.send_signal(signal.SIGKILL)
    said = ([said, *process.stdout.read().splitlines()])[-1]
    process.stdout.close()
    process.wait()

    with Gallery.open(tmp_path / "g", write=True) as opened:
        count = opened.count()
        assert count >= int(said)
        assert count % 7 == 0
        assert [slot for slot, _ in opened.scan()] == list(range(count))
        assert opened.codes(range(count))[:, 0].tolist() == [i // 7 * 7 % 251 for i in range(count)]
        assert opened.append([record(0)], random_codes(rng, 1)).tolist() == [count]


def test_a_folder_that_cannot_be_written_can_be_searched(folder, rng, monkeypatch):
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with Gallery.open(folder) as opened:
        assert len(opened.search(random_codes(rng, 1), 5)[0][0]) == 5
        with pytest.raises(LibraryError, match="cannot be written"):
            Gallery.open(folder, write=True)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_a_reader_cannot_write(folder, rng):
    with Gallery.open(folder) as opened, pytest.raises(ValueError, match="opened for reading"):
        opened.append([record(0)], random_codes(rng, 1))


@pytest.mark.parametrize(
    "failure, error",
    [
        (lmdb.DiskError("x", 28), MachineError),
        (lmdb.MemoryError("x"), MachineError),
        (lmdb.CorruptedError("x"), DamagedError),
        (lmdb.PageNotFoundError("x"), DamagedError),
        (lmdb.ReadonlyError("x"), LibraryError),
        (lmdb.ReadersFullError("x"), LibraryError),
    ],
)
def test_failures_of_lmdb_and_disk_become_ours(folder, rng, monkeypatch, failure, error):
    def fail(*_):
        raise failure

    with Gallery.open(folder, write=True) as opened:
        monkeypatch.setattr(blocks, "encode", fail)
        with pytest.raises(error):
            opened.append([record(700)], random_codes(rng, 1))


@pytest.mark.parametrize("number, error", [(28, MachineError), (5, LibraryError)])
def test_failures_of_the_disk_become_ours(folder, rng, monkeypatch, number, error):
    def fail(*_):
        raise OSError(number, "the disk says no")

    with Gallery.open(folder, write=True) as opened:
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(error, match="the disk says no"):
            opened.append([record(700)], random_codes(rng, 1))


def test_failures_of_the_caller_inside_a_snapshot_stay_what_they_are(folder):
    with Gallery.open(folder) as opened, pytest.raises(FileNotFoundError), opened.snapshot():
        os.stat(folder / "no such file")


def test_create_refuses_odd_widths_and_folders_that_are_taken(tmp_path, folder):
    with pytest.raises(UsageError, match="20 bits"):
        Gallery.create(tmp_path / "new", 20, "d")
    with pytest.raises(LibraryError, match="already holds a gallery"):
        Gallery.create(folder, 64, "d")
    read_all(folder)


def test_a_gallery_may_be_renamed_while_it_is_open(tmp_path, folder, rng):
    with Gallery.open(folder, write=True) as opened:
        folder.rename(tmp_path / "renamed")
        with Gallery.open(tmp_path / "renamed", write=True) as again:
            again.append([record(700)], random_codes(rng, 1))
        assert opened.count() == 98


# ---- cost


def test_appending_to_a_big_gallery_writes_as_little_as_to_a_small_one(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(gallery, "BLOCK_SLOTS", 1024)
    written = []
    for n in (1024, 16 * 1024):
        with Gallery.create(tmp_path / str(n), 256, "d") as made:
            made.append([record(i) for i in range(n)], random_codes(rng, n, 256))
            before = written_bytes()
            made.append([record(n + i) for i in range(1000)], random_codes(rng, 1000, 256))
            written.append(written_bytes() - before)
    assert written[1] < 2 * written[0] + 100_000


def written_bytes():
    return int(Path("/proc/self/io").read_text().split()[3])


@pytest.mark.parametrize("kernel", sorted({scan.kernels()[0], "numpy"}))
def test_a_search_holds_no_copy_of_the_codes(tmp_path, rng, monkeypatch, kernel):
    monkeypatch.setenv("HASHCLI_KERNEL", kernel)
    monkeypatch.setattr(gallery, "BLOCK_SLOTS", 4096)
    n, n_bits = 32_000, 1024
    with Gallery.create(tmp_path / "g", n_bits, "d") as made:
        made.append([record(i) for i in range(n)], random_codes(rng, n, n_bits))
    program = (
        "import resource, sys; from pathlib import Path; import numpy as np; from hashcli.gallery import Gallery\n"
        "def held():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(l for l in lines if l.startswith('VmData')).split()[1]) * 1024\n"
        "g = Gallery.open(Path(sys.argv[1])); query = np.zeros((3, 128), np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (held() + 2_500_000,) * 2)\n"
        "print(len(g.search(query, 10)[2][0]))\n"
        "try: np.ones(32_000 * 128, np.uint8)\n"
        "except MemoryError: print('and a copy would not fit')"
    )
    run = subprocess.run([sys.executable, "-c", program, tmp_path / "g"], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["10", "and a copy would not fit"]


# ---- network folders


def test_network_folders_are_told_by_the_longest_mount_point(tmp_path, monkeypatch):
    below = [("", "nfs4"), ("a b", "btrfs"), ("a b/c", "fuse.sshfs")]
    rows = [("/", "ext4"), *((str(tmp_path / name), kind) for name, kind in below)]
    monkeypatch.setattr(mounts, "_mounts", lambda: rows)
    assert mounts.is_network_folder(tmp_path / "x" / "y") == "nfs4"
    assert mounts.is_network_folder(tmp_path / "a b" / "x") is None
    assert mounts.is_network_folder(tmp_path / "a b" / "c" / "new") == "fuse.sshfs"
    assert mounts.is_network_folder(tmp_path.parent / (tmp_path.name + "-2")) is None


def test_mounts_are_read_and_this_folder_has_one(tmp_path):
    assert any(point == "/" for point, _ in mounts._mounts())
    assert mounts.is_network_folder(tmp_path) is None
    assert mounts._unescaped("/mnt/a\\040b") == "/mnt/a b"
