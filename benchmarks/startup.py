"""Whole commands from nothing, against scripts that do the same, measured in turns.

python benchmarks/startup.py --scratch DIR       the library of a million photos is made once, and kept there
python benchmarks/startup.py --clock processor   on a machine that computes other things as well
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from generated import batch, jpegs
from timing import CLOCKS, ROUNDS, compared, finish, machine, paired, run

from hashcli.library import Library

HASHCLI = Path(sysconfig.get_path("scripts"), "hashcli")
SCRIPTS = Path(__file__).resolve().parent / "startup_scripts"
PHOTOS, AT_ONCE = 1_000_000, 50_000
OTHERS = {"through_torch": 1 / 6, "rclip": 1 / 3}
INTRO = """\
    python benchmarks/startup.py

Whole processes. The photo has 12 megapixels, the library a million photos with codes of 64 bits. The scripts that
hashcli is compared with lie in [startup_scripts](benchmarks/startup_scripts): they check nothing, order nothing by
look, and know one library. `rclip.py` is what an image query of rclip computes, by its architecture with random
weights: its model cannot be brought along."""


def main() -> None:
    """Measure, print, and keep the results unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="default: a temporary folder")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--without", default="", help="comma-separated: through_torch, rclip")
    parser.add_argument("--print", action="store_true", help="print the table and keep nothing")
    chosen = parser.parse_args()
    facts = {**machine(), "clock": chosen.clock}
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.scratch or Path(temporary)
        library, photo = made(folder)
        generation = Library.open(library).require()
        files = [generation.folder / "gallery", generation.folder / "hasher", photo]

        def script(name: str) -> Callable[[], None]:
            return lambda: run([sys.executable, SCRIPTS / f"{name}.py", *files])

        def query(path: Path) -> Callable[[], None]:
            return lambda: run([HASHCLI, "query", path, "--format", "tsv", "--quiet", "--library", library])

        others = [name for name in OTHERS if name not in chosen.without.split(",")]
        cold = {"hashcli": query(photo)} | {name: script(name) for name in ("bare", *others)}
        seconds = paired(cold, chosen.rounds, CLOCKS[chosen.clock])
        what = "query of an unseen photo"
        rows = [compared(what, seconds, "hashcli", "bare", at_most=1.35)]
        rows += [compared(what, seconds, "hashcli", name, at_most=OTHERS[name]) for name in others]
        known = {"hashcli": query(folder / "photos" / "000-1.jpg"), "imports and bare scan": script("scan")}
        seconds = paired(known, chosen.rounds, CLOCKS[chosen.clock])
        rows += [compared("query of an indexed photo", seconds, "hashcli", "imports and bare scan", at_most=1.4)]
        helps = {
            "hashcli": lambda: run([HASHCLI, "--help"]),
            "five commands": lambda: run([sys.executable, SCRIPTS / "five_commands.py", "--help"]),
        }
        seconds = paired(helps, chosen.rounds, CLOCKS[chosen.clock])
        rows += [compared("--help", seconds, "hashcli", "five commands", at_most=1.25)]
    finish("startup", facts, rows, INTRO, keep=not chosen.print)


def made(folder: Path, photos: int = PHOTOS) -> tuple[Path, Path]:
    """A library of `photos` photos, most of them made up, and a photo of 12 megapixels that it has not seen."""
    library, seen, unseen = folder / f"library-{photos}", folder / "photos", folder / "unseen"
    jpegs(unseen, 4000, 3000, 1, 1)
    if not (library / "made").exists():
        jpegs(seen, 800, 600, 20, 2)
        subprocess.run([HASHCLI, "train", seen, "--method", "lsh", "--library", library], check=True)
        generation = Library.open(library).require()
        rng = np.random.default_rng(0)
        with generation.gallery(write=True) as gallery:
            for first in range(gallery.count(), photos, AT_ONCE):
                gallery.append(*batch(rng, first, min(AT_ONCE, photos - first), b"made-up"))
        (library / "made").touch()
    return library, unseen / "000-0.jpg"


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
