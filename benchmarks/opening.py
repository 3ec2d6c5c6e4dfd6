"""Opening a large gallery to the first result, in a new process, against a script that checks nothing.

python benchmarks/opening.py                         10 million codes; the rows join those of search.py
python benchmarks/opening.py --codes 1e6 --print     another size, printed and not kept
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from search import K, keep, made
from timing import CLOCKS, Row, compared, machine, paired, peak_bytes, run, table

from hashcli import scan
from hashcli.gallery import Gallery
from hashcli.records import Record, encode_record, slot_key

N_BITS = 64
BARE = Path(__file__).with_name("startup_scripts") / "scan.py"
# what it imports beyond numpy and lmdb, the bare script imports as well
OPEN = """import sys; from pathlib import Path; import numpy as np, typer; from hashcli.gallery import Gallery
with Gallery.open(Path(sys.argv[1])) as gallery, gallery.snapshot():
    ((slots, distances),) = gallery.search(np.zeros((1, gallery.n_bits // 8), np.uint8), 10)
    for distance, (_, path) in zip(distances, gallery.paths(slots)):
        print(distance, path, sep="\\t")"""


def main() -> None:
    """Measure, print, and keep the rows unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", default="1e7")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--scratch", type=Path, help="where the gallery is made; default: a temporary folder")
    parser.add_argument("--print", action="store_true", help="print the table and keep nothing")
    chosen = parser.parse_args()
    n = int(float(chosen.codes))
    facts = {**machine(), "clock": chosen.clock, "kernel": scan.kernels()[0]}
    with made(n, N_BITS, "random", chosen.scratch) as (gallery, _):
        add_records(gallery)
        rows = measured(gallery._folder, n, chosen.rounds, chosen.clock)
    print(table(rows))
    if not chosen.print:
        keep(facts, rows)


def add_records(gallery: Gallery) -> None:
    """Records for the photos that will be found; nobody reads the others."""
    ((slots, _),) = gallery.search(np.zeros((1, N_BITS // 8), np.uint8), K)
    records = {slot: Record(0, b"%d.jpg" % slot, 1, 1, bytes(16), None, "tgt") for slot in slots.tolist()}

    def add(tables: Any) -> None:
        for slot, record in records.items():
            tables._put("records", slot_key(slot), encode_record(slot, record, bytes(4)))

    with Gallery.open(gallery._folder, write=True) as writer:
        writer._commit(add)


def measured(folder: Path, n: int, rounds: int, clock: str) -> list[Row]:
    """Time of either kernel against the bare script, and the memory of each."""
    rows = []
    for kernel in sorted({scan.kernels()[0], "numpy"}):
        env = {"HASHCLI_KERNEL": kernel, "OPENBLAS_NUM_THREADS": "1"}
        ours = [sys.executable, "-c", OPEN, folder]
        what = f"{n:,} codes opened, {kernel if kernel == 'numpy' else 'C'} kernel"
        contenders = {"opened": partial(run, ours, env), "bare scan": partial(run, [sys.executable, BARE, folder])}
        rows.append(compared(what, paired(contenders, rounds, CLOCKS[clock]), "opened", "bare scan", "s", at_most=1.3))
        held = peak_bytes(ours, env) / 1e6 - N_BITS // 8 * n / 1e6
        rows.append(Row(f"{what}, memory beyond them", "", held, None, "MB", at_most=150, rounds=1))
    return rows


if __name__ == "__main__":
    main()
