"""What the speed benchmarks share: paired runs, peak memory, machine facts, results as JSON and as tables."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROUNDS = 7
HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results", HERE.parent / "README.md"
COLUMNS = ("what", "against", "ours", "theirs", "ratio", "target")

# A child shares its parent's memory until it is another program, and that counts; so the parent is a small one.
_PEAK = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


@dataclass(frozen=True)
class Row:
    """One line of a table: medians of ours and theirs, measured in turns in one run.

    at_most, at_least   the target for the ratio ours / theirs; without `theirs`, for ours
    """

    what: str
    against: str
    ours: float
    theirs: float | None
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    rounds: int = ROUNDS

    @property
    def measured(self) -> float:
        """What the target is for."""
        return self.ours if self.theirs is None else self.ours / self.theirs

    @property
    def met(self) -> bool:
        """Whether the target, if there is one, is met."""
        low = -float("inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= self.measured <= high


def processor_time() -> float:
    """Seconds that this process and its finished children have computed: for a machine that others use, too."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CLOCKS = {"wall": time.perf_counter, "processor": processor_time}


def paired(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each contender, round by round: all take their turn in each, after one round that does not count.

    Every other round goes backwards, so that nobody always runs behind the same neighbor.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1, rounds):
        order = list(contenders.items())
        for name, call in order if number % 2 else order[::-1]:
            start = clock()
            call()
            if number >= 0:
                seconds[name].append(clock() - start)
    return seconds


def compared(
    what: str, seconds: Mapping[str, Sequence[float]], ours: str, theirs: str, unit: str = "s", **target: float
) -> Row:
    """Two contenders of `paired` as a row; `unit` is s or ms."""
    scale = {"s": 1, "ms": 1000}[unit]
    medians = [scale * statistics.median(seconds[name]) for name in (ours, theirs)]
    return Row(what, theirs, *medians, unit, **target, rounds=len(seconds[ours]))


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    """Run a command to its end, in `folder`, its output dropped. Raises CalledProcessError."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    subprocess.run(command, env=environment(env), cwd=folder, check=True, **quiet)


def peak_bytes(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
    """The most memory that a command held, mapped files included. Raises CalledProcessError."""
    watched = [sys.executable, "-I", "-S", "-c", _PEAK, *command]
    done = subprocess.run(watched, env=environment(env), capture_output=True, text=True, check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """Where and with what was measured; `load` is how many processes wanted to run before we came."""
    from importlib.metadata import version

    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].strip() if names else cpu
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "hashcli": version("hashcli"),
        "commit": commit,
    }


def table(rows: Sequence[Row]) -> str:
    """Markdown; a missed target is marked."""
    lines = [COLUMNS, ("---", "---", *["---:"] * 4)]
    for row in rows:
        theirs = "" if row.theirs is None else f"{_number(row.theirs)} {row.unit}"
        ratio = "" if row.theirs is None else f"{row.measured:.2f}"
        bounds = (("at most", row.at_most), ("at least", row.at_least))
        target = ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        if not row.met:
            target += " (missed)"
        lines.append((row.what, row.against, f"{_number(row.ours)} {row.unit}", theirs, ratio, target))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def among(name: str, facts: dict[str, Any], rows: Sequence[Row]) -> tuple[dict[str, Any], list[Row]]:
    """These rows behind those of results/NAME.json that they do not measure again; the facts with the higher load."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return facts, list(rows)
    old = json.loads(path.read_text(encoding="utf-8"))
    new = {(row.what, row.against) for row in rows}
    kept = [row for row in (Row(**kept) for kept in old["rows"]) if (row.what, row.against) not in new]
    return facts | {"load": max(facts["load"], old["machine"]["load"])}, [*kept, *rows]


def finish(name: str, facts: Mapping[str, Any], rows: Sequence[Row], intro: str, keep: bool = True) -> None:
    """Print the rows, and keep them unless told not to."""
    print(table(rows))
    if keep:
        write(name, facts, rows, intro)


def write(
    name: str, facts: Mapping[str, Any], rows: Sequence[Row], intro: str, shown: Sequence[Row] | None = None
) -> None:
    """Write the rows, with the facts, to results/NAME.json, and as a table (only those `shown`) into the README.

    The README's place is between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
    """
    record = {"machine": facts, "rows": [asdict(row) for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    where = f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']} beforehand"
    clock = ", processor time" if facts.get("clock") == "processor" else ""
    block = f"{intro}\n\n{table(rows if shown is None else shown)}\n\nMedians{clock}, in turns, on {where}.\n"
    README.write_text(replaced(README.read_text(encoding="utf-8"), name, block), encoding="utf-8")


def replaced(readme: str, name: str, block: str) -> str:
    """The README with `block` between the markers of `name`. Raises ValueError where they are not."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, found, rest = readme.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"no {begin.strip()} ... {end} to write between")
    return f"{before}{begin}{block}{end}{after}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a measured command: ours and `env`, and Python may keep what it compiles, as where it is installed.

    The round that does not count is for compiling.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | (env or {})
