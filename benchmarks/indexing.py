"""Speed of indexing, against what the same machine needs at least, measured in turns.

python benchmarks/indexing.py                     all, some GB of scratch files in a temporary folder
python benchmarks/indexing.py --scratch DIR       keep the made-up photos and galleries for another run
python benchmarks/indexing.py --only photos,tree  some of it; the rest of the table stays as it was measured before
python benchmarks/indexing.py --only ""           the table again, nothing measured
python benchmarks/indexing.py --clock processor   processor time instead of wall time, on a machine that others use
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from generated import bare_walk, batch, gallery, jpegs, tree
from indexing_children import blank_library, cpu, photo_files
from PIL import JpegImagePlugin
from timing import CLOCKS, RESULTS, ROUNDS, Row, compared, environment, finish, machine, paired

from hashcli import codes
from hashcli.encoder import Encoder
from hashcli.indexing import index
from hashcli.library import Library
from hashcli.photos import decode, read
from hashcli.progress import Silent

Turns = Callable[[Mapping[str, Callable[[], object]]], dict[str, list[float]]]
HASHCLI = Path(sysconfig.get_path("scripts"), "hashcli")
CHILD = Path(__file__).with_name("indexing_children.py")
SIZES = {"12 MP": (4000, 3000, 16, 5), "2 MP": (1600, 1200, 60, 6)}  # width, height, scenes, copies of each
TREE = (500, 200)  # folders, photos in each
GALLERIES = (100_000, 1_000_000, 10_000_000)
ADDED = 1000
INTRO = """\
    python benchmarks/indexing.py

*photos* are whole runs of `hashcli index` on new photos, start-up, isolation, digests and storing included, against
the rate that decoding alone and encoding alone, each on all cores, would give one after the other. *workers* are the
isolated decoders with digests, against the same decoding in plain processes without; *index()* whole runs of it in one
process that is there already, with and without both. The tree has 100,000 photos."""


def main() -> None:
    """Measure, print, and keep the results of a whole run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    parts = RESULTS / "indexing"
    parts.mkdir(exist_ok=True)
    facts = machine() | {"clock": arguments.clock}
    with tempfile.TemporaryDirectory(prefix="hashcli-") as temporary:
        scratch = arguments.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        for name in filter(None, arguments.only.split(",")):
            turns = partial(paired, rounds=arguments.rounds, clock=CLOCKS[arguments.clock])
            rows = [asdict(row) for row in PARTS[name](scratch, turns)]
            (parts / f"{name}.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    kept = [json.loads((parts / f"{name}.json").read_text()) for name in PARTS if (parts / f"{name}.json").exists()]
    facts["load"] = max(part["machine"]["load"] for part in kept)
    finish("indexing", facts, [Row(**row) for part in kept for row in part["rows"]], INTRO)


# ---- new photos


def photos(scratch: Path, turns: Turns) -> Iterator[Row]:
    """Whole runs against decoding and encoding alone; isolated decoders against plain ones."""
    for name, sizes in SIZES.items():
        folder = jpegs(scratch / name.replace(" ", ""), *sizes)
        blank = _library(scratch, folder)
        took: dict[str, list[dict[str, float]]] = {child: [] for child in ("index", "plain", "workers", "encode")}

        def run(child: str, folder: Path = folder, blank: Path = blank, took: dict[str, Any] = took) -> None:
            took[child].append(_indexed(folder, blank) if child == "index" else _child(child, folder))

        rounds = len(turns({child: (lambda child=child: run(child)) for child in took})["index"])
        n = len(list(folder.iterdir()))
        for measure, target in (("wall", 0.85), ("cpu", None)):
            mid = {child: median(one[measure] for one in runs[1:]) for child, runs in took.items()}
            limit = mid["plain"] + mid["encode"]
            shown = {"wall": "photos", "cpu": "photos, per CPU second"}[measure]
            against = "decoding, then encoding"
            yield Row(f"{shown}, {name}", against, n / mid["index"], n / limit, "/s", at_least=target, rounds=rounds)
            if measure == "wall":
                ours, theirs = mid["workers"], mid["plain"]
                yield Row(f"workers, {name}", "plain processes", ours, theirs, "s", at_most=1.1, rounds=rounds)


def _indexed(folder: Path, blank: Path) -> dict[str, float]:
    """Index a folder into a copy of a library that knows nothing of it."""
    with tempfile.TemporaryDirectory(prefix="hashcli-") as place:
        library = shutil.copytree(blank, Path(place, "library"), copy_function=shutil.copy2)
        return _timed([str(HASHCLI), "index", "--quiet", "--library", str(library), str(folder)])


def _child(name: str, folder: Path) -> dict[str, float]:
    return _timed([sys.executable, CHILD, name, str(folder)])


def _timed(command: list[str]) -> dict[str, float]:
    """Seconds of a command: as it says itself, else all of it; and of all processes that it waited for."""
    before, start = cpu(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment())
    wall = time.perf_counter() - start
    return {"wall": wall, "cpu": cpu() - before, **(json.loads(done.stdout) if done.stdout else {})}


# ---- what isolation costs


def isolation(scratch: Path, turns: Turns) -> Iterator[Row]:
    """Whole runs of index() on new photos, as it is and with decoders that are trusted and no digests of contents."""
    for name, sizes in SIZES.items():
        folder = jpegs(scratch / name.replace(" ", ""), *sizes)
        _library(scratch, folder)
        took: dict[str, list[float]] = {"isolated": [], "trusting": []}

        def run(child: str, folder: Path = folder, took: dict[str, list[float]] = took) -> None:
            took[child].append(_child(child, folder)["wall"])

        rounds = len(turns({child: (lambda child=child: run(child)) for child in took})["isolated"])
        ours, theirs = (median(seconds[1:]) for seconds in took.values())
        n = len(list(folder.iterdir()))
        what = f"index() of {n} photos, {name}"
        yield Row(what, "neither isolation nor digests", ours, theirs, "s", at_most=1.1, rounds=rounds)


def _library(scratch: Path, folder: Path) -> Path:
    """A library with a hasher, and neither photos nor features of `folder`."""
    blank = blank_library(folder)
    if not blank.exists():
        other = jpegs(scratch / "other", 320, 240, 80, 1)
        command = [HASHCLI, "train", "--quiet", "--method", "itq", "--library", blank, other]
        subprocess.run(command, check=True)
    return blank


# ---- the decoding rule


def rule(scratch: Path, turns: Turns) -> Iterator[Row]:
    """Scaling down in the DCT domain against decoding whole JPEGs of 12 megapixels: seconds, and bits that differ."""
    folder = jpegs(scratch / "12MP", *SIZES["12 MP"])
    hasher = Library.open(_library(scratch, folder)).require().hasher
    encoder, spec = Encoder(hasher), hasher.spec
    data = [read(file) for file in photo_files(folder)[:: SIZES["12 MP"][3]]]

    def scaled(some: list[Any] = data[:4]) -> list[Any]:
        return [decode(one, spec.size, spec.fit) for one in some]

    def whole(some: list[Any] = data[:4]) -> list[Any]:
        draft = JpegImagePlugin.JpegImageFile.draft
        JpegImagePlugin.JpegImageFile.draft = lambda *_: None  # type: ignore[method-assign,assignment]
        try:
            return scaled(some)
        finally:
            JpegImagePlugin.JpegImageFile.draft = draft  # type: ignore[method-assign]

    seconds = turns({"scaled": scaled, "decoded whole": whole})
    yield compared("4 photos of 12 MP scaled in the DCT domain", seconds, "scaled", "decoded whole", at_most=1 / 2.5)
    domains = np.zeros(len(data), np.int64)
    ours, theirs = (
        encoder.codes(encoder.features(np.stack(pixels)), domains) for pixels in (scaled(data), whole(data))
    )
    changed = (codes.unpack(ours, hasher.n_bits) != codes.unpack(theirs, hasher.n_bits)).mean()
    yield Row(f"bits that this changes, {len(data)} photos", "", 100 * float(changed), None, "%", at_most=2)


# ---- nothing new


def unchanged(scratch: Path, turns: Turns) -> Iterator[Row]:
    """A tree of 100,000 photos that are all indexed: the same process, and whole commands."""
    folder = tree(scratch / "tree", *TREE)
    place = scratch / "library-tree"
    if not place.exists():
        shutil.copytree(_library(scratch, folder), place)
        run = [str(HASHCLI), "index", "--quiet", "--library", str(place)]
        subprocess.run([*run, str(folder)], check=True)
        time.sleep(3)  # files this young would be read again
        for _ in range(2):
            subprocess.run(run, check=True)
    library = Library.open(place)
    others = scratch / "other"

    def ours() -> None:
        found = index(library, progress=Silent())
        assert found.unchanged >= TREE[0] * TREE[1] and not found.added, found.counts()

    def theirs() -> None:
        bare_walk(folder)
        bare_walk(others)

    bare = [sys.executable, "-I", "-S", "-c", _BARE, str(folder), str(others)]
    seconds = turns(
        {
            "index()": ours,
            "bare scandir and stat": theirs,
            "hashcli index": lambda: subprocess.run([HASHCLI, "index", "--quiet", "--library", place], check=True),
            "a bare script": lambda: subprocess.run(bare, check=True),
        }
    )
    yield compared("the tree again, unchanged", seconds, "index()", "bare scandir and stat", at_most=2)
    yield compared("the same as whole commands", seconds, "hashcli index", "a bare script")


_BARE = """
import os, sys
for folder in sys.argv[1:]:
    todo = [folder]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)
"""


# ---- growing galleries


def store(scratch: Path, turns: Turns) -> Iterator[Row]:
    """Adding photos to galleries of three sizes."""
    opened = {n: gallery(scratch / f"gallery-{n}", n) for n in GALLERIES}
    added = dict.fromkeys(GALLERIES, 0)

    def add(n: int) -> None:
        top = b"new-%d" % time.time_ns()
        opened[n].append(*batch(np.random.default_rng(time.time_ns()), added[n], ADDED, top))
        added[n] += ADDED

    seconds = turns({f"{n:,}": (lambda n=n: add(n)) for n in GALLERIES})
    for each in opened.values():
        each.close()
    smallest = f"{GALLERIES[0]:,}"
    for n in GALLERIES[1:]:
        what = f"adding {ADDED:,} photos to {n:,}"
        yield compared(what, {f"to {k}": v for k, v in seconds.items()}, f"to {n:,}", f"to {smallest}", "ms", at_most=2)


PARTS: Mapping[str, Callable[[Path, Turns], Iterator[Row]]] = {
    "photos": photos,
    "isolation": isolation,
    "rule": rule,
    "tree": unchanged,
    "store": store,
}


if __name__ == "__main__":
    main()
