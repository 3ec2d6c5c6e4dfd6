"""Damage every file of a library of thousands of photos, ask it, and count what came back.

    python -m campaigns.flips                    2,000 flipped bits and 400 larger damages, half an hour
    python -m campaigns.flips --flips 50 --larger 10 --only gallery/data.mdb

An answer is right when it is that of the sound library, byte for byte; `said` is a right search whose order within
equal distances is worse, as a cached feature is gone and hashcli says so. Everything else must be an error (exit code
4): a wrong answer, a traceback, a crash and a hang each fail the campaign.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from campaigns import world
from campaigns.results import write
from campaigns.world import Answer, World

PHOTOS = 3000
SERVED = "generations/g000002/gallery/data.mdb"  # what every question goes through: half of the damage


def flip(data: bytearray, draw: random.Random) -> str:
    """One bit."""
    place = draw.randrange(len(data))
    bit = draw.randrange(8)
    data[place] ^= 1 << bit
    return f"bit {bit} of byte {place}"


def burst(data: bytearray, draw: random.Random) -> str:
    """Up to 64 bytes of noise."""
    place, size = draw.randrange(len(data)), draw.choice([2, 8, 64])
    data[place : place + size] = draw.randbytes(len(data[place : place + size]))
    return f"noise in {size} bytes from {place}"


def sector(data: bytearray, draw: random.Random) -> str:
    """A sector or page of zeros, of noise, or with another one's contents."""
    size = draw.choice([512, 4096])
    place, other = (draw.randrange(-(-len(data) // size)) * size for _ in range(2))
    length = len(data[place : place + size])
    kind = draw.choice(["zeros", "noise", "another's contents"])
    contents = {"zeros": bytes(length), "noise": draw.randbytes(length), "another's contents": data[other:][:length]}
    data[place : place + length] = contents[kind].ljust(length, b"\0")
    return f"{kind} in {size} bytes from {place}"


def cut(data: bytearray, draw: random.Random) -> str:
    """The end is gone."""
    length = draw.choice([0, draw.randrange(len(data)), max(0, len(data) - draw.randrange(1, 5000))])
    del data[length:]
    return f"cut to {length} bytes"


def exchange(data: bytearray, draw: random.Random) -> str:
    """A file in another one's place: of the other generation, or any other (`Campaign` does it)."""
    raise NotImplementedError


Attack = Callable[[bytearray, random.Random], str]
LARGER: list[Attack] = [burst, sector, cut, exchange]


class Campaign:
    """One library, damaged again and again."""

    def __init__(self, sound: World, scratch: Path, seed: int, only: str | None) -> None:
        self.library, self.scratch = scratch / "library", scratch
        self._sound, self._seed, self._only = sound, seed, only
        self._copy()
        self.files = sorted(str(p.relative_to(sound.library)) for p in sound.library.rglob("*") if p.is_file())
        photos = sorted((sound.photos / "phone" / "0").iterdir())
        asked = [str(path) for path in random.Random(seed).sample(photos, 4)] + [str(sound.stranger)]
        self.questions = {
            "query": ["query", *asked, "--top", "20"],
            "info": ["library", "info"],
            "index": ["index", "--quiet"],
            "all": ["query", asked[-1], "--top", "100000"],
            "verify": ["library", "verify", "--quiet"],
        }
        self.outcomes: Counter[str] = Counter()
        self.findings: list[str] = []
        self.expected: dict[str, Answer] = {}

    def attacks(self, first: int, n: int, kinds: Sequence[Attack]) -> None:
        """Numbers `first` to `first + n`, in forked processes, each of which goes on until damage ends it."""
        done, diary = first, self.scratch / "diary"
        while done < first + n:
            diary.write_bytes(b"")
            child = os.fork()
            if child == 0:
                try:
                    self._attacks(range(done, first + n), kinds, diary)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(70)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            lines = [json.loads(line) for line in diary.read_text().splitlines()]
            for line in lines:
                if "outcome" in line:
                    self._count(**line)
            if lines and "outcome" not in lines[-1]:  # it ended in the middle of this one
                err = (self.scratch / "err").read_text(errors="backslashreplace")
                name, what = lines[-1]["name"], lines[-1]["what"]
                answer = Answer(code, b"", err.encode())
                self._count(name, what, _outcome(answer, self.expected[name]), f"code {code}: {err[-400:]}")
            elif not lines:
                sys.exit(f"the campaign itself failed: code {code}")
            done = lines[-1]["number"] + 1
            self._copy()
            print(f"{done - first} of {n}: {dict(self.outcomes)}", flush=True)

    def _attacks(self, numbers: Iterable[int], kinds: Sequence[Attack], diary: Path) -> None:
        """In the forked process: one attack after another, each told in the diary before and after."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        with open(diary, "a", buffering=1) as file:
            for number in numbers:
                draw = random.Random(f"{self._seed} {number}")
                what = self._damage(draw, draw.choice(kinds))
                chance = draw.random()
                also = "index" if chance < 0.2 else "info" if chance < 0.3 else "verify" if chance < 0.4 else None
                for name in ("query", also):
                    if name:
                        told = {"number": number, "name": name, "what": what}
                        file.write(json.dumps(told) + "\n")
                        answer = self.ask(name)
                        outcome = _outcome(answer, self.expected[name])
                        about = f"code {answer.code}: {answer.err[-400:]}"
                        file.write(json.dumps({**told, "outcome": outcome, "about": about}) + "\n")
                self._copy()
                if outcome in FAILURES:
                    break  # the next process starts afresh
        os._exit(0)

    def ask(self, name: str) -> Answer:
        """In this process, which a damaged library may end."""
        with open(self.scratch / "out", "w+b") as out, open(self.scratch / "err", "w+b") as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            signal.setitimer(signal.ITIMER_PROF, 30)
            signal.setitimer(signal.ITIMER_REAL, 600)
            code = world.run([*self.questions[name], "--library", str(self.library)])
            if name == "index" and code == 0:  # says nothing itself: what the gallery then holds is its answer
                code = world.run([*self.questions["all"], "--library", str(self.library)])
            for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
                signal.setitimer(timer, 0)  # or it would end the campaign itself, which asks the sound library
            out.seek(0)
            err.seek(0)
            answer = Answer(code, out.read(), err.read())
        if name == "info":  # the size of what is damaged may be another one
            lines = [line.rpartition(b"\t")[0] for line in answer.out.splitlines()]
            return Answer(answer.code, b"\n".join(lines), answer.said)
        return answer

    def learn(self) -> None:
        """What the sound library answers."""
        kept = os.dup(1), os.dup(2)
        self.expected = {name: self.ask(name) for name in ("query", "info", "index", "verify")}
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
        self._copy()
        wrong = {name: (answer.code, answer.err) for name, answer in self.expected.items() if answer.code}
        if wrong:
            sys.exit(f"the sound library does not answer: {wrong}")

    def _damage(self, draw: random.Random, kind: Attack) -> str:
        one = SERVED if draw.random() < 0.5 else draw.choice(self.files)
        if self._only:
            one = f"generations/g000002/{self._only}" if "/" in self._only else self._only
        if kind is exchange:
            alike = [name for name in self.files if name != one and os.path.basename(name) == os.path.basename(one)]
            other = draw.choice(alike if alike and draw.random() < 0.7 else self.files)
            data, what = bytearray((self._sound.library / other).read_bytes()), f"it is {other}"
        else:
            data = bytearray((self.library / one).read_bytes())
            what = kind(data, draw) if data else "left as it is, empty"
        (self.library / one).unlink()  # backbones are shared by hard link
        (self.library / one).write_bytes(data)
        return f"{one}: {what}"

    def _count(self, name: str, what: str, outcome: str, about: str, number: int = 0) -> None:
        self.outcomes[outcome] += 1
        self.outcomes[f"{name}: {outcome}"] += 1
        if outcome in FAILURES:
            self.findings.append(f"{what}: {name}: {outcome}: {about}")
            print(self.findings[-1], flush=True)

    def _copy(self) -> None:
        shutil.rmtree(self.library, ignore_errors=True)
        shutil.copytree(self._sound.library, self.library)


FAILURES = ("wrong", "traceback", "crash", "hang")


def _outcome(answer: Answer, expected: Answer) -> str:
    if answer.code == -14:
        return "hang"
    if answer.code < 0:
        return "crash"
    if answer.code == 70 or "Traceback" in answer.err:
        return "traceback"
    if (answer.code, answer.out) == (expected.code, expected.out):
        return "right"
    if answer.code in (4, 5) and "error: " in answer.err:
        return "error"
    if "damaged" in answer.err and _found(answer) == _found(expected):
        return "said"
    return "wrong"


def _found(answer: Answer) -> list[tuple[bytes, bytes]]:
    """Query and distance of each line: what does not depend on features."""
    lines = [line.split(b"\t") for line in answer.out.splitlines()]
    return sorted((line[0], line[2]) for line in lines if len(line) > 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--larger", type=int, default=400)
    parser.add_argument("--photos", type=int, default=PHOTOS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="damage this file alone, of the generation in use")
    parser.add_argument("--out", type=Path, help="where the result goes (default: among the committed ones)")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flips-", dir=_memory()) as scratch:
        sound = world.make(Path(scratch, "sound"), options.photos, options.seed)
        world.warm(sound)
        campaign = Campaign(sound, Path(scratch), options.seed, options.only)
        campaign.learn()
        campaign.attacks(0, options.flips, [flip])
        flips = dict(campaign.outcomes)
        campaign.outcomes.clear()
        campaign.attacks(options.flips, options.larger, LARGER)
        result = {
            "photos": options.photos,
            "files": len(campaign.files),
            "seed": options.seed,
            "flips": options.flips,
            "larger": options.larger,
            "answers after flips": flips,
            "answers after larger damage": dict(campaign.outcomes),
            "findings": campaign.findings,
        }
    write("flips", result, time.monotonic() - start, options.out)
    print(json.dumps(result, indent=1))
    return int(bool(campaign.findings))


def _memory() -> str | None:
    """A folder in memory, where there is one: thousands of copies of a library are made."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
