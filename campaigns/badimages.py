"""Index the broken, odd and hostile files that `make_bad_images.py` makes, each with what is expected of it.

    python -m campaigns.badimages

    ok      indexed                          bad     not indexed, and listed with its reason where it is called a photo
    either  both are sound                   skip    never opened: not indexed

The run is that of the installed command, with decoders in processes of their own, and must end by itself. What is
expected and what came are written down for every file; the exceptions, where hashcli decides otherwise on purpose,
are in `ON_PURPOSE`, each with its reason.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path

from campaigns import permissions, world
from campaigns.results import write
from hashcli.photos import unescape

SCRIPT = Path(__file__).with_name("make_bad_images.py")
ON_PURPOSE = {
    "names/.hidden.jpg": "hidden files are passed over unless --hidden is given",
    "names/.jpg": "hidden files are passed over unless --hidden is given",
    "fs/good-link.jpg": "a photo that a link leads to counts once, under its own name",
    "mismatch/jpg-named.txt": "a file that is called something else than a photo is none",
    "names/trailing-space.jpg ": "a file that is called something else than a photo is none",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the result goes (default: among the committed ones)")
    options = parser.parse_args()
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="badimages-"))
    try:
        result = run(folder)
    finally:
        _remove(folder)
    write("badimages", result, time.monotonic() - start, options.out)
    print(json.dumps(result, indent=1))
    return int(bool(result["findings"]))


def run(folder: Path) -> dict[str, object]:
    """Make the files in `folder`, index them, and compare."""
    made = subprocess.run([sys.executable, SCRIPT, folder / "bad"], capture_output=True, text=True, check=True)
    with open(folder / "bad.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        cases = list(csv.DictReader(file))
    world.keep_backbone(folder / "cache")
    for i in range(4):
        world.photo(os.fsencode(folder / f"photos/{i}.png"), i)
    environment = os.environ | {"HASHCLI_CACHE": str(folder / "cache"), "HASHCLI_LIBRARY": str(folder / "library")}
    script = Path(sysconfig.get_path("scripts"), "hashcli")
    report = folder / "report.jsonl"

    def hashcli(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [script, *arguments],
            env=environment,
            capture_output=True,
            timeout=1800,
            check=False,
            preexec_fn=permissions.heed,  # some of the files may not be read
        )

    trained = hashcli("train", folder / "photos", "--method", "lsh", "--bits", "32")
    done = hashcli("index", folder / "bad", "--report", report)
    found = hashcli("query", folder / "photos/0.png", "--top", "10000", "--format", "paths", "-0")
    base = os.fsencode(folder / "bad") + b"/"
    indexed = {path.removeprefix(base) for path in found.stdout.split(b"\0") if path.startswith(base)}
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    reasons = {unescape(line["path"]).removeprefix(base): line["reason"] for line in lines}
    counts: Counter[str] = Counter()
    findings = []
    if (trained.returncode, done.returncode, found.returncode) != (0, 3, 0) or b"Traceback" in done.stderr:
        findings.append(
            f"exit codes {trained.returncode}, {done.returncode}, {found.returncode}: {done.stderr!r}"[-900:]
        )
    for case in cases:
        path = os.fsencode(case["path"])
        came = "indexed" if path in indexed else "reported" if path in reasons else "passed over"
        sound = {"ok": ["indexed"], "skip": ["reported", "passed over"], "bad": ["reported", "passed over"]}
        shown = path.decode("utf-8", "backslashreplace")
        counts[f"{case['expect']}: {came}"] += 1
        if case["expect"] == "either" or came in sound[case["expect"]]:
            counts["as expected"] += 1
        elif shown in ON_PURPOSE:
            counts["otherwise, on purpose"] += 1
        else:
            findings.append(f"{shown}: expected {case['expect']}, was {came}: {reasons.get(path)}")
    return {
        "cases": len(cases),
        "not made here": made.stdout.splitlines()[0],
        "counts": dict(sorted(counts.items())),
        "on purpose": ON_PURPOSE,
        "findings": findings,
    }


def _remove(folder: Path) -> None:
    """Some folders may not be entered, and some paths are too long to name."""
    for _, names, _, descriptor in os.fwalk(folder):
        for name in names:
            if not stat.S_ISLNK(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                os.chmod(name, 0o700, dir_fd=descriptor)
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
