"""The README's table of what was attacked, how often, and what was lost, from the campaigns' committed results.

python -m campaigns.table
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaigns.results import FOLDER

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- trust:begin -->", "<!-- trust:end -->"
Line = tuple[str, str, str]


def _answers(counts: dict[str, int]) -> str:
    names = {"right": "right", "said": "right but for an order that is said to be worse", "error": "clear errors"}
    bad = sum(counts.get(name, 0) for name in ("wrong", "traceback", "crash", "hang"))
    told = [f"{counts[name]:,} {words}" for name, words in names.items() if counts.get(name)]
    return ", ".join([*told, f"{bad} wrong answers, tracebacks, crashes or hangs"])


def _flips(result: dict[str, Any]) -> list[Line]:
    where = f"{result['files']} files of a library of {result['photos']:,} photos"
    lines = [(f"flipped bits, in {where}", f"{result['flips']:,}", _answers(result["answers after flips"]))]
    if result["larger"]:
        what = "noise, lost and exchanged sectors, truncations, exchanged files"
        lines.append((what, f"{result['larger']:,}", _answers(result["answers after larger damage"])))
    return lines


def _kills(result: dict[str, Any]) -> list[Line]:
    names = ", ".join(f"{name} {counts['killed']}" for name, counts in result["scenes"].items() if counts.get("killed"))
    return [(f"`kill -9` at random moments: {names}", f"{result['kills']:,}", f"{len(result['findings'])} losses")]


def _badimages(result: dict[str, Any]) -> list[Line]:
    counts = result["counts"]
    told = [f"{counts['as expected']} as expected"]
    if others := counts.get("otherwise, on purpose"):
        told.append(f"{others} otherwise, on purpose")
    return [
        ("broken, odd and hostile files", str(result["cases"]), ", ".join([*told, f"{len(result['findings'])} not"]))
    ]


def _soak(result: dict[str, Any]) -> list[Line]:
    done = result["done"]
    what = ", ".join(
        f"{done[name]:,} {name}" for name in ("added", "changed", "moved", "deleted", "queries") if name in done
    )
    lost = f"{len(result['findings'])} differences from a library built anew ({done['photos at last']:,} photos)"
    return [(f"one writer and two readers: {what}", f"{result['minutes']:g} minutes", lost)]


def _fuzz(result: dict[str, Any]) -> list[Line]:
    return [
        (f"coverage-guided inputs for the {name} reader", f"{one['inputs']:,} in {one['seconds'] // 60} minutes",
         f"{len(one['findings'])} findings")
        for name, one in result["targets"].items()
    ]  # fmt: skip


def _checksums(result: dict[str, Any]) -> list[Line]:
    missed = result["missed"]
    return [
        ("bursts of noise in a record, against its CRC-32", f"{result['records']:,}", f"{missed['records']} missed"),
        (
            "bursts of noise in a block, against its sums",
            f"{result['blocks']:,}",
            f"{missed['blocks']} missed",
        ),
        ("pairs of bits flipped in one block", f"{result['pairs']:,}", f"{missed['pairs']} missed"),
    ]


CAMPAIGNS: dict[str, Callable[[dict[str, Any]], list[Line]]] = {
    "flips": _flips,
    "kills": _kills,
    "badimages": _badimages,
    "soak": _soak,
    "fuzz": _fuzz,
    "checksums": _checksums,
}


def table(folder: Path = FOLDER) -> str:
    """One line for each kind of attack whose result is there."""
    lines = ["| attacked by | how often | what came of it | again |", "| --- | ---: | --- | --- |"]
    for name, told in CAMPAIGNS.items():
        path = folder / f"{name}.json"
        if path.exists():
            for what, often, lost in told(json.loads(path.read_text())):
                lines.append(f"| {what} | {often} | {lost} | `make {name}` |")
    return "\n".join(lines)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
