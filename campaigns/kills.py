"""Kill real `hashcli` processes with SIGKILL at random moments, and see what they leave.

    python -m campaigns.kills                   210 kills, twenty minutes
    python -m campaigns.kills --kills 10 --only index

After each kill the library must open and verify, every photo must be as it was before the command or as it is after
it, and the same command must then end in exactly the state of an undisturbed run. Half of the kills come at any moment
of the command, half at one from its first change of the library on. A tenth of the processes is started anew; the
others are forked, which saves the start, when nothing can be lost yet. The backbone has a few hundred bytes, the method
is `lsh`, and batches are of eight photos, so that there are many.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaigns import world
from campaigns.results import write
from hashcli import carrying
from hashcli.hasher import HEAD
from hashcli.library import Library

BATCH = 8
INSTALLED = 0.1  # share of kills of a fresh process of the installed command; the others are forked from this one
State = dict[bytes, tuple[str, ...]] | None  # of each photo label, domain, contents, code, hasher; None: no library


@dataclass
class Scene:
    """A command, the library it starts from, and what it makes of it."""

    name: str
    command: list[str]
    start: Path | None
    toggles: bool = False  # the command undoes itself, so that it is not repeated where it was done
    before: State = None
    after: State = None
    seconds: float = 0.0
    writing: float = 0.0  # seconds from the first change of the library to the end
    counts: Counter[str] = field(default_factory=Counter)


class Kills:
    """All scenes, in one folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.library = folder / "library"
        places = {"HASHCLI_CACHE": folder / "cache", "HASHCLI_LIBRARY": self.library, "HOME": folder}
        os.environ.update({name: str(path) for name, path in places.items()})
        carrying.blocks.__defaults__ = (BATCH,)
        world.keep_backbone(folder / "cache")
        self.photos = folder / "photos"
        for i in range(40):
            world.photo(os.fsencode(self.photos / f"studio/class{i % 4}/{i}.png"), i)
        for i in range(60):
            world.photo(os.fsencode(self.photos / f"phone/{i}.png"), 100 + i)
        self._made("warm", None, ["train", str(self.photos / "phone"), "--method", "lsh", "--bits", "32"], here=True)
        world.warm(world.World(folder))
        self.scenes = self._scenes()
        self.findings: list[str] = []

    def _scenes(self) -> list[Scene]:
        roots = ["--src", str(self.photos / "studio"), "--tgt", str(self.photos / "phone")]
        adapt = ["adapt", *roots, "--method", "lsh", "--bits", "32", "--workers", "1", "--force"]
        one = self._made("one", None, adapt)
        two = self._made("two", one, [*adapt, "--seed", "1"])
        staged = self._made("staged", one, [*adapt, "--seed", "2", "--no-index"])
        for i in range(0, 60, 3):
            path = self.photos / f"phone/{i}.png"
            if i % 4 == 0:
                path.unlink()
            elif i % 4 == 1:
                path.rename(path.with_name(f"moved-{i}.png"))
            else:
                world.photo(os.fsencode(path), 300 + i)
            world.photo(os.fsencode(self.photos / f"phone/new-{i}.png"), 400 + i)
        index = ["index", "--workers", "1"]
        scenes = [
            Scene("first adapt", adapt, None),
            Scene("second adapt", [*adapt, "--seed", "1"], one),
            Scene("index", index, one),
            Scene("index --prune", [*index, "--prune", "--yes"], one),
            Scene("index, switching to a staged hasher", index, staged),
            Scene("library rollback", ["library", "rollback"], two, toggles=True),
        ]
        for scene in scenes:
            self._start(scene)
            scene.before = self.state()
            start = time.monotonic()
            process = self._run(scene.command)
            began = self._first_change(process)
            process.wait()
            scene.seconds, scene.writing = time.monotonic() - start, time.monotonic() - began
            if process.returncode not in (0, 3):
                sys.exit(f"{scene.name}: exit code {process.returncode}")
            scene.after = self.state()
            if scene.before == scene.after:
                sys.exit(f"{scene.name} changes nothing")
        return scenes

    def _made(self, name: str, start: Path | None, command: list[str], here: bool = False) -> Path:
        """A library that the command makes of the one at `start`; `here`: in this process, which then has all of it."""
        self._start(Scene(name, command, start))
        if world.run(command) if here else self._run(command).wait():
            sys.exit(f"{name}: {(self.folder / 'said').read_text()}")
        return self.library.rename(self.folder / name)

    def _start(self, scene: Scene) -> None:
        shutil.rmtree(self.library, ignore_errors=True)
        if scene.start:
            shutil.copytree(scene.start, self.library)

    def _run(self, command: list[str], installed: bool = False) -> Process:
        with open(self.folder / "said", "wb") as said:
            if installed:
                script = Path(sysconfig.get_path("scripts"), "hashcli")
                return subprocess.Popen([script, *command], stdout=said, stderr=said)
            return Forked(world.start(command, said.fileno(), said.fileno(), 600, here_=False))

    def _first_change(self, process: Process) -> float:
        """Wait until the process changes the library, or ends; when that was."""
        watched = [self.library, self.library / "lock"]
        old = _times(watched)
        while process.poll() is None and _times(watched) == old:
            time.sleep(0.002)
        return time.monotonic()

    def state(self) -> State:
        """All that a search sees."""
        if not (self.library / "current").exists():
            return None
        generation = Library.open(self.library).require()
        head = generation.hasher.record["files"][HEAD]["sha256"]
        with generation.gallery() as gallery:
            roots = {root.id: root.path for root in gallery.roots()}
            return {
                roots[record.root] + b"/" + record.path: (
                    str(record.label), record.domain, record.digest.hex(), gallery.codes([slot]).tobytes().hex(), head,
                )
                for slot, record in gallery.scan()
            }  # fmt: skip

    def kill(self, scene: Scene) -> None:
        self._start(scene)
        installed = self.draw.random() < INSTALLED
        process = self._run(scene.command, installed)
        if self.draw.random() < 0.5:
            time.sleep(self.draw.uniform(0, scene.seconds * (3 if installed else 1)))
        else:
            self._first_change(process)
            time.sleep(self.draw.uniform(0, scene.writing))
        process.send_signal(signal.SIGKILL)
        killed = process.wait() == -signal.SIGKILL
        scene.counts["killed" if killed else "too late"] += 1
        if killed:
            self.judge(scene)

    def judge(self, scene: Scene) -> None:
        found = self.state()
        if found == scene.before:
            scene.counts["as before"] += 1
        elif found == scene.after:
            scene.counts["as after"] += 1
        else:
            scene.counts["in between"] += 1
            old, new, now = scene.before or {}, scene.after or {}, found or {}
            if {head for *_, head in now.values()} > {head for *_, head in (*old.values(), *new.values())}:
                self._find(scene, "a hasher that nobody made")
            for path in {*old, *new, *now}:
                if now.get(path) not in (old.get(path), new.get(path)):
                    self._find(scene, f"{path!r} is {now.get(path)}, neither {old.get(path)} nor {new.get(path)}")
        if found is not None:
            self._expect(scene, "verify", self._verified)
        if scene.toggles and found == scene.after:
            return
        code = self._run(scene.command).wait()
        if code not in (0, 3):
            self._find(scene, f"the same command again: exit code {code}: {(self.folder / 'said').read_text()[-500:]}")
        self._expect(scene, "the same command again", lambda: self.state() == scene.after)
        self._expect(scene, "verify at last", self._verified)
        left = [path.name for path in (self.library / "generations").iterdir() if path.name.startswith(".")]
        if left:
            self._find(scene, f"left behind: {left}")

    def _expect(self, scene: Scene, what: str, true: Callable[[], bool]) -> None:
        if not true():
            self._find(scene, f"{what} failed")

    def _verified(self) -> bool:
        return world.ask("library", "verify", "--library", str(self.library)).code == 0

    def _find(self, scene: Scene, what: str) -> None:
        self.findings.append(f"{scene.name}: {what}")
        print(self.findings[-1], flush=True)
        kept = Path(tempfile.mkdtemp(prefix="finding-", dir=tempfile.gettempdir()))
        shutil.copytree(self.library, kept / "library")


class Forked:
    """A process that this one forked, with what `subprocess.Popen` offers of it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int | None:
        return self.poll(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


Process = Forked | subprocess.Popen[bytes]


def _times(paths: list[Path]) -> list[int]:
    return [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=210)
    parser.add_argument("--only", help="this scene alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the result goes (default: among the committed ones)")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        kills = Kills(Path(folder), options.seed)
        scenes = [scene for scene in kills.scenes if options.only in (None, scene.name)]
        print({scene.name: (round(scene.seconds, 1), round(scene.writing, 1)) for scene in scenes}, flush=True)
        weights = [1 if "adapt" in scene.name else 8 for scene in scenes]  # training takes its time
        done = 0
        while done < options.kills:
            (scene,) = kills.draw.choices(scenes, weights)
            kills.kill(scene)
            done = sum(scene.counts["killed"] for scene in scenes)
            if done % 20 == 0:
                print(f"{done} kills, {time.monotonic() - start:.0f} s, {len(kills.findings)} findings", flush=True)
    result: dict[str, Any] = {
        "kills": done,
        "seed": options.seed,
        "scenes": {scene.name: dict(scene.counts) for scene in scenes},
        "findings": kills.findings,
    }
    write("kills", result, time.monotonic() - start, options.out)
    print(json.dumps(result, indent=1))
    return int(bool(kills.findings))


if __name__ == "__main__":
    sys.exit(main())
