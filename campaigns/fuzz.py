"""Fuzz the readers with coverage as the guide, as long as you like.

    python -m campaigns.fuzz                       ten minutes for each target
    python -m campaigns.fuzz --minutes 1 photo

The fuzzer is atheris (libFuzzer). An input that makes a reader raise what it does not promise, hang or crash is kept
as `crash-...` in the current folder, and given to the target again by `python -m campaigns.fuzz photo --input FILE`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from campaigns.fuzz_targets import TARGETS, memory
from campaigns.results import FOLDER, write


def fuzz(name: str, seconds: int, seed: int) -> dict[str, object]:
    """Run libFuzzer on a target in a process of its own, because it never returns."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory()) as folder:
        command = [sys.executable, "-m", "campaigns.fuzz", name, "--child", folder]
        limits = [f"-max_total_time={seconds}", f"-seed={seed + 1}", "-timeout=120", "-rss_limit_mb=4096"]
        done = subprocess.run(
            [*command, *limits, "-max_len=70000", "-print_final_stats=1", str(Path(folder, "corpus"))],
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            check=False,
        )
    runs = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    return {
        "seconds": seconds,
        "inputs": int(runs[1]) if runs else None,
        "branches": int(covered[-1]) if covered else None,
        "findings": [] if done.returncode == 0 else [done.stderr[-3000:]],
    }


def child(name: str, folder: Path, arguments: list[str]) -> None:
    """Become libFuzzer."""
    import importlib

    import atheris

    with atheris.instrument_imports():
        importlib.import_module("PIL.Image")
    target = TARGETS[name](folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.corpus):
        (corpus / str(number)).write_bytes(data)
    for module in target.modules:
        _instrument(importlib.import_module(module))
    atheris.Setup([sys.argv[0], *arguments], target.run)
    atheris.Fuzz()


def _instrument(module: object) -> None:
    """Let atheris count the branches of all functions and methods of a module."""
    import inspect

    import atheris

    for name, value in list(vars(module).items()):
        if inspect.isfunction(value) and value.__module__ == module.__name__:  # type: ignore[attr-defined]
            atheris.instrument_func(value)
        elif inspect.isclass(value) and value.__module__ == module.__name__:  # type: ignore[attr-defined]
            for method in vars(value).values():
                if inspect.isfunction(method):
                    atheris.instrument_func(method)
        del name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", type=Path, help="give this file to the target, and nothing else")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="where the result goes (default: among the committed ones)")
    options, rest = parser.parse_known_args()
    names = [name for name in options.targets if name in TARGETS] or list(TARGETS)
    if options.child:
        child(names[0], options.child, [*rest, *options.targets[1:]])
    if options.input:
        with tempfile.TemporaryDirectory(dir=memory()) as folder:
            TARGETS[names[0]](Path(folder)).run(options.input.read_bytes())
        return 0
    start = time.monotonic()
    found = {name: fuzz(name, round(60 * options.minutes), options.seed) for name in names}
    path = options.out or FOLDER / "fuzz.json"
    kept = json.loads(path.read_text())["targets"] if path.exists() else {}  # of targets that were fuzzed before
    result = {"seed": options.seed, "targets": {**kept, **found}}
    write("fuzz", result, time.monotonic() - start, path)
    print(json.dumps(result, indent=1))
    return int(any(target["findings"] for target in found.values()))


if __name__ == "__main__":
    sys.exit(main())
