"""Whole commands from nothing, against scripts that do the same, measured in turns.

python benchmarks/startup.py --scratch DIR       the library of a million photos is made once, and kept there
python benchmarks/startup.py --clock processor   on a machine that computes other things as well
python benchmarks/startup.py --rclip PROGRAM     also against rclip, which wants another environment than hashcli's:
    python -m venv DIR; DIR/bin/pip install rclip==3.3.0; PROGRAM is DIR/bin/rclip
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
COLD = {"bare": 1.35, "through torch": 1 / 6, "rclip": 1 / 3}  # targets
PHOTOS, AT_ONCE = 1_000_000, 50_000
INTRO = """\
    python benchmarks/startup.py

Whole processes. The photo has 12 megapixels, the library a million photos with codes of 64 bits. The scripts that
hashcli is compared with lie in [startup_scripts](benchmarks/startup_scripts): they check nothing, order nothing by
look, and know one library. rclip is itself (`--rclip`), with random weights in its own architecture, because its model
cannot be brought along; it has 40 photos indexed."""


def main() -> None:
    """Measure, print, and keep the results unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="default: a temporary folder")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--rclip", type=Path, help="an installed rclip")
    parser.add_argument("--without-torch", action="store_true", help="leave out the slow script through torch")
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

        cold = {"hashcli": query(photo), "bare": script("bare")}
        if not chosen.without_torch:
            cold["through torch"] = script("through_torch")
        if chosen.rclip:
            cold["rclip"] = rclip(chosen.rclip, folder, photo)
        seconds = paired(cold, chosen.rounds, CLOCKS[chosen.clock])
        what = "query of an unseen photo"
        rows = [compared(what, seconds, "hashcli", name, at_most=COLD[name]) for name in cold if name != "hashcli"]
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


def rclip(program: Path, folder: Path, photo: Path) -> Callable[[], None]:
    """rclip's search for a photo among those of the library that are no fakes, which are indexed now."""
    data, photos = folder / "rclip", folder / "photos"
    env = {"RCLIP_DATADIR": str(data.resolve())}
    if not data.exists():
        run([sys.executable, SCRIPTS / "rclip_model.py", data])
    wanted = photo.resolve()
    run([program, wanted], env, photos)
    return lambda: run([program, "--no-indexing", wanted], env, photos)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
