"""Ten minutes of photos that come, change, move and go, with one writer and two readers; then compare with a rebuild.

    python -m campaigns.soak
    python -m campaigns.soak --minutes 1

The writer changes some photos and indexes (with --prune, now and then with a new hasher, a rollback, or the loss of all
cached features); the readers query all the time. No command of either may fail, and no answer may name what was never
there. At last the library must hold exactly what a fresh one does that is built from the photos that are left, with
the same codes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from campaigns import world
from campaigns.results import write
from hashcli.library import Library
from tests import tiny


class Soak:
    """The photos and the library, and what was done to them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.photos, self.library = folder / "photos", folder / "library"
        self.names: list[str] = []
        self.made = 0
        self.done: Counter[str] = Counter()
        self.findings: list[str] = []
        self.hasher = 0
        for _ in range(300):
            self.add()
        self.roots = [(self.photos / "studio", "src"), (self.photos / "phone", "tgt")]
        self.exported = tiny.backbone(folder / "backbone")
        world.photo(os.fsencode(folder / "stranger.png"), 2**31)
        with world.here():
            tiny.adapt(Library.at(self.library), self.exported, self.roots)  # type: ignore[arg-type]

    def add(self) -> None:
        name = f"{self.draw.choice(['studio/a', 'studio/b', 'phone/x', 'phone'])}/{self.made}.png"
        self.made += 1
        world.photo(os.fsencode(self.photos / name), self.draw.randrange(2**20) if self.draw.random() < 0.9 else 7)
        self.names.append(name)
        self.done["added"] += 1

    def change(self) -> None:
        world.photo(os.fsencode(self.photos / self.draw.choice(self.names)), self.draw.randrange(2**20))
        self.done["changed"] += 1

    def move(self) -> None:
        old = self.names.pop(self.draw.randrange(len(self.names)))
        new = f"{self.draw.choice(['studio/a', 'studio/b', 'phone/x', 'phone'])}/moved-{self.made}.png"
        self.made += 1
        os.rename(self.photos / old, self.photos / new)
        self.names.append(new)
        self.done["moved"] += 1

    def delete(self) -> None:
        (self.photos / self.names.pop(self.draw.randrange(len(self.names)))).unlink()
        self.done["deleted"] += 1

    def write(self) -> None:
        """One round of the writer."""
        for _ in range(self.draw.randrange(1, 30)):
            self.draw.choices(
                [self.add, self.change, self.move, self.delete], [4, 3, 2, 3 if len(self.names) > 200 else 0]
            )[0]()
        chance = self.draw.random()
        if chance < 0.08:
            self.hasher += 1
            with world.here():
                tiny.adapt(Library.open(self.library), self.exported, self.roots, seed=self.hasher)  # type: ignore[arg-type]
            self.done["new hashers"] += 1
        elif chance < 0.12 and self.done["new hashers"]:
            self.command("rollback", "library", "rollback")
            self.command("rollback", "library", "rollback")
        elif chance < 0.15:
            self.command("clean", "library", "clean", "--features")
        self.command("index", "index", "--prune", "--yes", "--quiet")

    def command(self, what: str, *arguments: str) -> bytes:
        answer = world.ask(*arguments, "--library", str(self.library))
        self.done[what] += 1
        if answer.code not in (0, 1):
            self.findings.append(f"{what}: code {answer.code}: {answer.err[-600:]}")
            print(self.findings[-1], flush=True)
        return answer.out

    def compare(self) -> None:
        """With a library that is built from nothing by the hasher in use."""
        self.command("index", "index", "--prune", "--yes", "--quiet")
        if self.command("verify", "library", "verify", "--quiet"):
            self.findings.append("verify finds damage")
        used = Library.open(self.library).require()
        fresh = Library.at(self.folder / "fresh")
        with world.here():
            tiny.adapt(fresh, self.exported, self.roots, seed=used.hasher.seed)  # type: ignore[arg-type]
        mine, theirs = _held(Library.open(self.library)), _held(fresh)
        self.done["photos at last"] = len(mine)
        if mine.keys() != theirs.keys():
            self.findings.append(f"photos differ: {sorted(mine.keys() ^ theirs.keys())[:9]}")
        for path in mine.keys() & theirs.keys():
            if mine[path] != theirs[path]:
                self.findings.append(f"{path!r}: {mine[path]} instead of {theirs[path]}")


def _held(library: Library) -> dict[bytes, tuple[object, ...]]:
    with library.require().gallery() as gallery:
        roots = {root.id: root.path for root in gallery.roots()}
        return {
            roots[r.root] + b"/" + r.path: (r.domain, r.digest, r.size, gallery.codes([slot]).tobytes())
            for slot, r in gallery.scan()
        }


def read(soak: Soak, number: int, until: float, results: Path) -> None:
    """A reader: asks, and checks that answers are in order and of photos that are or were there."""
    draw = random.Random(1000 + number)
    done, findings = 0, []
    while time.monotonic() < until:
        photos = sorted((soak.photos / "phone").glob("*.png"))
        asked = [soak.folder / "stranger.png", *draw.sample(photos, min(2, len(photos)))]
        answer = world.ask("query", *map(str, asked), "--top", "30", "--library", str(soak.library))
        done += 1
        if answer.code not in (0, 3):  # 3: a photo was removed between our look and its query
            findings.append(f"query: code {answer.code}: {answer.err[-600:]}")
        rows = [line.split(b"\t") for line in answer.out.splitlines()]
        for name in {row[0] for row in rows}:
            distances = np.array([int(row[2]) for row in rows if row[0] == name])
            paths = [row[4] for row in rows if row[0] == name]
            if (np.diff(distances) < 0).any() or len(set(paths)) < len(paths):
                findings.append(
                    f"query: {name!r}: distances {distances.tolist()}, {len(paths) - len(set(paths))} twice"
                )
        if rows and not all(row[4].startswith(bytes(soak.photos)) for row in rows):
            findings.append("query: a photo that was never there")
    results.write_text(json.dumps({"queries": done, "findings": findings}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the result goes (default: among the committed ones)")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        soak = Soak(folder, options.seed)
        world.warm(world.World(folder))
        until = time.monotonic() + 60 * options.minutes
        readers = []
        for number in range(2):
            child = os.fork()
            if child == 0:
                try:
                    read(soak, number, until, folder / f"reader-{number}.json")
                finally:
                    os._exit(0)
            readers.append(child)
        while time.monotonic() < until:
            soak.write()
            if soak.done["index"] % 20 == 0:
                print(f"{time.monotonic() - start:.0f} s: {dict(soak.done)}", flush=True)
        for child in readers:
            os.waitpid(child, 0)
        for number in range(2):
            told = json.loads((folder / f"reader-{number}.json").read_text())
            soak.done["queries"] += told["queries"]
            soak.findings += told["findings"]
        soak.compare()
    result = {"minutes": options.minutes, "seed": options.seed, "done": dict(soak.done), "findings": soak.findings}
    write("soak", result, time.monotonic() - start, options.out)
    print(json.dumps(result, indent=1))
    return int(bool(soak.findings))


if __name__ == "__main__":
    sys.exit(main())
