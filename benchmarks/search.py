"""Exact search, straight from a gallery's map with checksums compared, against faiss, usearch and naive numpy.

python benchmarks/search.py                                  up to 10 million codes, a quarter of an hour
python benchmarks/search.py --sizes 1e8 --queries 1          another size; what was measured before stays
python benchmarks/search.py --afresh --clock processor       all anew, on a machine that computes other things, too

hashcli searches in one thread; `--threads` are those of the others. `pip install '.[bench]'` brings them. 1e8 codes of
128 bits take 5 GB of memory and 2 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import faiss
import numpy as np
from numpy.typing import NDArray
from timing import CLOCKS, RESULTS, Row, among, compared, machine, paired, table, write
from usearch.index import MetricKind
from usearch.index import search as usearch

from hashcli import codes, scan
from hashcli.gallery import Gallery

Packed = NDArray[np.uint8]
K = 10
CHUNK = 1 << 20
LARGE = 10**6  # from here on there are targets; a smaller gallery is searched in no time
MOST_PAIRS = {"numpy kernel": 10**8, "naive numpy": 10**6, "usearch": 10**6, "faiss": 10**10}
# ratio to faiss by (bits, several queries?)
TARGETS = {(64, False): {"C": 0.75, "numpy": 1.5}, (128, False): {"C": 0.85, "numpy": 2.2}, (64, True): {"C": 0.4}}
INTRO = """\
    pip install '.[bench]'
    python benchmarks/search.py

The 10 nearest, exactly. hashcli reads the codes from the database's map and compares every block with its checksum;
the others have them in memory, and *read* is numpy's quickest pass over them there. *C* is the compiled kernel, one
thread. A gallery is *opened* in a new process, until its ten nearest are printed, against a script that does no more
and checks nothing. [search.md](benchmarks/results/search.md) has all figures, those of clustered codes (a few bits off
one of a thousand centers) too."""


def main() -> None:
    """Measure, print, and keep the results unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1e5,1e6,1e7")
    parser.add_argument("--queries", default="1,100,1000")
    parser.add_argument("--bits", default="64,128")
    parser.add_argument("--codes", default="random,clustered")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--scratch", type=Path, help="where galleries are made; default: a temporary folder")
    parser.add_argument("--print", action="store_true", help="print the table and keep nothing")
    parser.add_argument("--afresh", action="store_true", help="forget what was measured before")
    chosen = parser.parse_args()
    if chosen.afresh and not chosen.print:
        (RESULTS / "search.json").unlink(missing_ok=True)
    facts = {**machine(), "clock": chosen.clock, "kernel": scan.kernels()[0]}
    rows: list[Row] = []
    lists = [[int(float(word)) for word in getattr(chosen, name).split(",")] for name in ("sizes", "bits", "queries")]
    for n, n_bits, kind in product(lists[0], lists[1], chosen.codes.split(",")):
        with made(n, n_bits, kind, chosen.scratch) as (gallery, packed):
            for n_queries, threads in product(lists[2], map(int, chosen.threads.split(","))):
                if n * n_queries > MOST_PAIRS["faiss"] or (threads > 1 and n_queries == 1):
                    continue
                queries = some_codes(n_queries, n_bits, kind, seed=1)
                found = contenders(gallery, packed, queries, threads)
                # a single query takes milliseconds: more rounds cost nothing
                seconds = paired(found, 3 * chosen.rounds if n_queries == 1 else chosen.rounds, CLOCKS[chosen.clock])
                what = f"{n_queries:,} of {n_bits} bits in {n:,} {kind}" + (f", {threads} threads" * (threads > 1))
                targets = TARGETS.get((n_bits, n_queries > 1), {}) if n >= LARGE else {}
                rows += lines(what, seconds, targets, single=n_queries == 1)
                print(what, file=sys.stderr, flush=True)
                if not chosen.print:  # after each case: who stops it has what was measured so far
                    keep(facts, rows)
    print(table(rows))


def keep(facts: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write these rows beside those measured before: all into results/, the main ones into the README."""
    facts, every = among("search", facts, rows)
    shown = [row for row in every if row.at_most is not None and "clustered" not in row.what]
    write("search", facts, every, INTRO, shown)
    (RESULTS / "search.md").write_text(f"# Search\n\n{table(every)}\n", encoding="utf-8")


def lines(what: str, seconds: dict[str, list[float]], targets: dict[str, float], single: bool) -> Iterator[Row]:
    """The rows of one case."""
    for kernel in ("C", "numpy"):
        ours = f"{kernel} kernel"
        if ours not in seconds:
            continue
        target = {"at_most": targets[kernel]} if kernel in targets else {}
        yield compared(f"{ours}, {what}", seconds, ours, "faiss", "ms", **target)
    if "C kernel" in seconds:
        for other in ("usearch", "naive numpy"):
            if other in seconds:
                yield compared(f"C kernel, {what}", seconds, "C kernel", other, "ms")
        if single:
            target = {"at_most": 1.8} if targets else {}
            yield compared(f"C kernel, {what}", seconds, "C kernel", "read", "ms", **target)


def contenders(gallery: Gallery, packed: Packed, queries: Packed, threads: int) -> dict[str, Callable[[], object]]:
    """All that can do this in reasonable time, and find the same distances."""
    index = faiss.IndexBinaryFlat(8 * packed.shape[1])
    index.add(packed)
    flat = packed.reshape(-1).view(np.uint64)
    pairs = len(packed) * len(queries)

    def by(kernel: str) -> Callable[[], list[tuple[scan.Ints, scan.Ints]]]:
        def search() -> list[tuple[scan.Ints, scan.Ints]]:
            os.environ["HASHCLI_KERNEL"] = kernel
            return gallery.search(queries, K)

        return search

    def faiss_search() -> NDArray[np.int32]:
        faiss.omp_set_num_threads(threads)
        distances: NDArray[np.int32] = index.search(queries, K)[0]
        return distances

    def naive() -> NDArray[np.uint16]:
        return np.sort(codes.distances(queries, packed), axis=1)[:, :K]

    found: dict[str, Callable[[], object]] = {"faiss": faiss_search, "read": lambda: np.maximum.reduce(flat)}
    if scan.kernels()[0] != "numpy":
        found["C kernel"] = by(scan.kernels()[0])
    if pairs <= MOST_PAIRS["numpy kernel"]:
        found["numpy kernel"] = by("numpy")
    if pairs <= MOST_PAIRS["usearch"]:
        found["usearch"] = lambda: usearch(packed, queries, K, MetricKind.Hamming, exact=True, threads=threads)
    if pairs <= MOST_PAIRS["naive numpy"]:
        found["naive numpy"] = naive
    expected = faiss_search()
    for name in ("C kernel", "numpy kernel"):
        if name in found:
            kernel = scan.kernels()[0 if name == "C kernel" else -1]
            assert np.array_equal(np.stack([distances for _, distances in by(kernel)()]), expected), name
    return found


def some_codes(n: int, n_bits: int, kind: str, seed: int) -> Packed:
    """Packed codes (n, n_bits // 8): uniform, or each bit of one of 1,000 centers flipped with probability 1/16."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        return rng.integers(0, 256, (n, n_bits // 8), dtype=np.uint8)
    centers = np.random.default_rng(0).integers(0, 256, (1000, n_bits // 8), dtype=np.uint8)
    flips = np.bitwise_and.reduce(rng.integers(0, 256, (4, n, n_bits // 8), dtype=np.uint8))
    return centers[rng.integers(0, 1000, n)] ^ flips


@contextmanager
def made(n: int, n_bits: int, kind: str, scratch: Path | None) -> Iterator[tuple[Gallery, Packed]]:
    """A gallery of `n` codes without photos' records, which no search reads; and the codes."""
    packed = np.empty((n, n_bits // 8), np.uint8)
    for at in range(0, n, CHUNK):
        packed[at : at + CHUNK] = some_codes(min(CHUNK, n - at), n_bits, kind, seed=2 + at)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        with Gallery.create(Path(folder, "g"), n_bits, "0" * 64) as gallery:
            for at in range(0, n, CHUNK):
                words = codes.to_words(packed[at : at + CHUNK])

                def append(tables: object, at: int = at, words: codes.Words = words) -> None:
                    tables._count(slots=words.shape[1], photos=words.shape[1])  # type: ignore[attr-defined]
                    tables._append_words(at, words)  # type: ignore[attr-defined]

                gallery._commit(append, 2 * words.nbytes)
        with Gallery.open(Path(folder, "g")) as gallery:
            yield gallery, packed


if __name__ == "__main__":
    main()
