"""What `indexing.py` measures in processes of their own: `python indexing_children.py NAME FOLDER` prints seconds."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from hashcli import backbones, extraction
from hashcli.decoding import Decoded, decode_all, default_workers
from hashcli.encoding import OnCPU
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.photos import PhotoFile, decode, read
from hashcli.progress import Silent
from hashcli.walking import walk


def blank_library(folder: Path) -> Path:
    """Where the library is kept that has a hasher and nothing of `folder`."""
    return folder.parent / f"library-{folder.name}"


def cpu() -> float:
    """Processor time of finished children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def photo_files(folder: Path) -> list[PhotoFile]:
    """All photos in a folder."""
    return [file for file in walk(os.fsencode(folder)) if isinstance(file, PhotoFile)]


def _stopwatch(work: Callable[[], object]) -> dict[str, float]:
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def plain(folder: Path) -> dict[str, float]:
    """Decode in as many processes as there are cores, which are not isolated and make no digests."""
    files, spec = photo_files(folder), backbones.exported(backbones.DEFAULT, Silent()).spec
    with ProcessPoolExecutor(default_workers(), initializer=_prepare, initargs=(spec.size, spec.fit)) as pool:
        list(pool.map(_decoded, files[:4]))  # has them started
        start = time.perf_counter()
        list(pool.map(_decoded, files))
        wall = time.perf_counter() - start
    return {"wall": wall, "cpu": cpu() * len(files) / (len(files) + 4)}


_chosen: list[Any] = []


def _prepare(size: int, fit: str) -> None:
    _chosen[:] = [size, fit]


def _decoded(file: PhotoFile) -> bytes:
    return decode(read(file), _chosen[0], _chosen[1]).tobytes()


def workers(folder: Path) -> dict[str, float]:
    """Decode as `hashcli index` does: isolated, with digests."""
    files, spec = photo_files(folder), backbones.exported(backbones.DEFAULT, Silent()).spec
    found = decode_all([*files[:4], *files], spec.size, spec.fit)
    for _ in range(4):
        next(found)
    start = time.perf_counter()
    list(found)
    return {"wall": time.perf_counter() - start}


def encode(folder: Path) -> dict[str, float]:
    """Encode as many photos as the folder has, decoded before."""
    backbone = backbones.exported(backbones.DEFAULT, Silent())
    session, n, size = OnCPU(backbone), len(photo_files(folder)), backbone.spec.size
    pixels = np.random.default_rng(0).integers(0, 256, (session.batch, size, size, 3), dtype=np.uint8)
    session.features(pixels[:2])
    return _stopwatch(lambda: [session.features(pixels[: n - first]) for first in range(0, n, session.batch)])


def isolated(folder: Path) -> dict[str, float]:
    """index() as it is, on all cores; wall time."""
    with tempfile.TemporaryDirectory(prefix="hashcli-") as place:
        library = Library.open(shutil.copytree(blank_library(folder), Path(place, "library")))
        took = _stopwatch(lambda: index(library, [folder], progress=Silent()))
        with library.require().gallery() as held:
            assert held.count() >= len(photo_files(folder))
        return took


def trusting(folder: Path) -> dict[str, float]:
    """The same with plain processes, and names for digests."""

    def decode_plainly(
        files: Sequence[PhotoFile], size: int, fit: str, workers: int | None, **_: object
    ) -> Iterator[Decoded]:
        with ProcessPoolExecutor(workers or default_workers(), initializer=_prepare, initargs=(size, fit)) as pool:
            for number, pixels in enumerate(pool.map(_decoded, files)):
                digest = blake2b(files[number].full, digest_size=16).digest()
                yield Decoded(number, digest, np.frombuffer(pixels, np.uint8).reshape(size, size, 3))

    extraction.decode_all = decode_plainly  # type: ignore[assignment]
    return isolated(folder)


CHILDREN: Mapping[str, Callable[[Path], dict[str, float]]] = {
    "plain": plain,
    "workers": workers,
    "encode": encode,
    "isolated": isolated,
    "trusting": trusting,
}

if __name__ == "__main__":
    print(json.dumps(CHILDREN[sys.argv[1]](Path(sys.argv[2]))))
