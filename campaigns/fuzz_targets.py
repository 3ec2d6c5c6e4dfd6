"""What the fuzzer feeds: the readers of hashers, galleries and photos, each as `run(bytes)`, with inputs to begin with.

Whatever the bytes are, a reader may answer or raise the error that it promises; anything else is a finding.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image

from hashcli import blocks, gallery, hasher_record, hasher_transfer, onnx_check, seals
from hashcli.errors import HashcliError
from hashcli.gallery import Gallery, Record
from hashcli.hasher import HEAD, RECORD, Hasher
from hashcli.photos import PhotoError, decode
from hashcli.roots import Roots
from tests import tiny

TABLES = (b"meta", b"roots", b"records", b"blocks", b"paths", b"digests")
PHOTOS = 20


@dataclass(frozen=True)
class Target:
    """`modules` are those whose branches the fuzzer should look for."""

    run: Callable[[bytes], None]
    corpus: list[bytes]
    modules: tuple[str, ...]


def hasher_reader(folder: Path) -> Target:
    """A record that is sealed again whatever is in it, a graph, and a zip file; the first byte says which."""
    made = tiny.write_hasher(folder / "made", tiny.backbone(folder / "backbone"))
    record = (folder / "made" / RECORD).read_bytes()
    graph = (folder / "made" / HEAD).read_bytes()
    hasher_transfer.export(made, folder / "export.zip")
    archive = (folder / "export.zip").read_bytes()
    ports = onnx_check.head_ports(tiny.DIM, tiny.N_BITS)
    there = {*os.listdir(folder), "tried.zip", "corpus"}

    def run(data: bytes) -> None:
        kind, rest = data[:1], data[1:]
        try:
            if kind == b"g":
                onnx_check.check(rest, ports, "a graph")
            elif kind == b"z":
                (folder / "tried.zip").write_bytes(rest)
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    hasher_transfer.import_from(folder / "tried.zip", Path(place, "hasher"))
            else:
                _write_record(folder / "made" / RECORD, rest)
                opened = Hasher.open(folder / "made")
                opened.verify()
                _ = opened.seen, opened.classes, opened.settings, opened.vocabulary
        except HashcliError:
            pass
        assert set(os.listdir(folder)) <= there, "a reader wrote outside its folder"

    return Target(run, [b"r" + record, b"g" + graph, b"z" + archive], ("hashcli.hasher", "hashcli.onnx_check"))


def _write_record(path: Path, data: bytes) -> None:
    try:
        record = json.loads(data)
        if isinstance(record, dict):
            record["digest"] = hasher_record.seal(record)
            data = json.dumps(record).encode()
    except (ValueError, RecursionError):
        pass
    path.write_bytes(data)


def gallery_reader(folder: Path) -> Target:
    """A forged gallery: one value is another one, sealed as if hashcli had written it; then all of it is read."""
    kept, gallery.BLOCK_SLOTS = gallery.BLOCK_SLOTS, 8
    draw = np.random.default_rng(3)
    records = [Record(0, b"%d.jpg" % i, i, i, bytes(15) + bytes([i % 7]), "a", "src") for i in range(PHOTOS)]
    try:
        with Gallery.create(folder / "gallery", 64, "digest") as made:
            made.add_root(b"/photos", "tgt")
            made.append(records, draw.integers(0, 256, (PHOTOS, 8), dtype=np.uint8))
            made.remove([3, 9])
    finally:
        gallery.BLOCK_SLOTS = kept
    env = lmdb.open(str(folder / "gallery"), max_dbs=8, sync=False)
    tables = {name: env.open_db(name, create=False) for name in TABLES}
    with env.begin() as txn:
        stored = [(name, key, value) for name, table in tables.items() for key, value in txn.cursor(table)]
    env.close()

    def run(data: bytes) -> None:
        if not data:
            return
        name, key, old = stored[data[0] % len(stored)]
        value = _sealed(name, key, data[1:])
        _put(folder / "gallery", name, key, value)
        try:
            with Gallery.open(folder / "gallery") as opened:
                _read_all(opened)
        except HashcliError:
            pass
        finally:
            _put(folder / "gallery", name, key, old)

    corpus = []
    for place, (name, _, value) in enumerate(stored):
        corpus.append(bytes([place]) + (value[:4] + value[8:] if name == b"blocks" else value[:-4]))
    watched = (
        "hashcli.block_header",
        "hashcli.block_search",
        "hashcli.blocks",
        "hashcli.chain",
        "hashcli.gallery",
        "hashcli.records",
        "hashcli.tables",
    )
    return Target(run, corpus, watched)


def _sealed(name: bytes, key: bytes, data: bytes) -> bytes:
    if name != b"blocks":
        return seals.seal((name if name in (b"paths", b"digests") else b"") + key, data)
    magic, rest = data[:4], data[4:]
    header = rest[: (blocks.header_size(8) if any(rest[8:12]) else 148) - 8]  # tombstones count where there are any
    return magic + struct.pack("<I", zlib.crc32(header, zlib.crc32(key))) + rest


def _put(folder: Path, name: bytes, key: bytes, value: bytes) -> None:
    with lmdb.open(str(folder), max_dbs=8, sync=False) as env:
        table = env.open_db(name, create=False)
        with env.begin(write=True) as txn:
            txn.put(key, value, db=table)


def _read_all(opened: Gallery) -> None:
    """As commands do: everything that one call gives goes into the next."""
    opened.info()
    opened.verify()
    query = np.zeros((1, opened.n_bits // 8), np.uint8)
    with opened.snapshot():
        roots = Roots(opened)
        for slot, record in opened.scan():
            roots.full(record)
            opened.records([s for s in [opened.slot_of(record.root, record.path)] if s is not None])
            opened.records(opened.slots_of_digest(record.digest))
            opened.codes([slot])
        for number in (0, 1):
            opened.records([slot for slot in opened.slots_by_path(number)])
        (found,) = opened.search(query, 5)
        opened.records(found[0])
    list(opened.salvage())


def photo_decoder(folder: Path) -> Target:
    """A file's contents, decoded as in a worker, where only little memory and few pixels are allowed."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    corpus = []
    for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF", "PPM", "TGA", "ICO", "MPO", "QOI"):
        out = io.BytesIO()
        image.save(out, form)
        corpus.append(out.getvalue())

    def run(data: bytes) -> None:
        try:
            pixels = decode(data, 32, "crop", max_pixels=1_000_000)
        except PhotoError as error:
            assert error.reason
        else:
            assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8

    plugins = ("PIL.Image", "PIL.ImageFile", "PIL.TiffImagePlugin", "PIL.PngImagePlugin", "PIL.JpegImagePlugin")
    return Target(run, corpus, ("hashcli.pixels", *plugins))


TARGETS: dict[str, Callable[[Path], Target]] = {
    "hasher": hasher_reader,
    "gallery": gallery_reader,
    "photo": photo_decoder,
}


def memory() -> str | None:
    """A folder in memory, where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
