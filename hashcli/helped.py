"""Did learning help? The new hasher beside the one in use, in numbers and plain words, and when it is refused.

No label of the target is needed, so none is asked for. Refused is only what has surely collapsed; whatever else got
worse is said.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from hashcli.health import Encode, Health, Probe, examine

MAP_DROP = 0.05
MOST_CONSTANT = 0.25
MOST_IN_ONE_CODE = 0.5
MOST_IN_ONE_OF_TWO = 0.9
FEW = 10  # photos that may well be of one class, so that one code for all of them says nothing


@dataclass(frozen=True)
class Row:
    """One measure as the table shows it: its name there, which way is better, and by how much worse is worth a word."""

    measure: str
    title: str
    better: Literal["higher", "lower"]
    tolerance: float
    worse: str


ROWS = (
    Row("held_out_map", "held-out source photos find their class (mAP)", "higher", 0.01,
        "held-out source photos find their own class less well"),
    Row("neighbor_agreement", "photos that look alike are put into one class", "higher", 0.05,
        "photos that look alike are put into one class less often"),
    Row("look_alikes_found", "photos that look alike are found", "higher", 0.05,
        "photos that look alike are found less often"),
    Row("entropy", "doubt about a photo's class (entropy)", "lower", 0.05,
        "it is less clear to which class a photo belongs"),
    Row("domain_distance", "distance between the two collections", "lower", 0.1,
        "the two collections lie further apart"),
    Row("stability", "photos that both halves of the code put into one class", "higher", 0.05,
        "the guessed classes depend more on single bits"),
    Row("bit_balance", "balance of the bits", "higher", 0.2,
        "the bits are less balanced, so they tell less"),
    Row("distinct_codes", "distinct codes, per photo", "higher", 0.25,
        "fewer photos have a code of their own; photos of one code are ordered by their looks"),
)  # fmt: skip


@dataclass(frozen=True)
class Helped:
    """The new hasher's health, that of the one in use before (None: there was none), and what follows.

    warnings    what got worse, and what was not compared, in plain words
    collapsed   why the new hasher is refused; empty when it is not
    """

    after: Health
    before: Health | None = None
    warnings: list[str] = field(default_factory=list)
    collapsed: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The table, one line per measure that the photos allow, then the verdict and the warnings."""
        width = max(len(row.title) for row in ROWS)
        question = "did it help?" if self.before else "what was learned, with nothing before it"
        lines = [f"{question:<{width}}  {'before':>7}  {'after':>7}"]
        for row in ROWS:
            before, after = getattr(self.before, row.measure, None), getattr(self.after, row.measure)
            if after is not None:
                lines.append(f"{row.title:<{width}}  {_shown(before)}  {_shown(after)}  {_verdict(row, before, after)}")
        lines = [line.rstrip() for line in lines]
        return lines + [f"warning: {warning}" for warning in self.warnings]


def compare(
    probe: Probe, new: Encode, old: Encode | None, *, n_classes: int, same_length: bool, seen: frozenset[bytes]
) -> Helped:
    """Measure both hashers on the same photos.

    new, old      hash functions, photos and their domain -> packed codes; old None: there is none, or it cannot
                  look at these photos
    n_classes     of the source; 0 without labels
    same_length   whether both give codes of as many bits: only then is a fall of the held-out mAP a collapse
    seen          digests that the old hasher learned from: held-out photos among them are left out of both mAPs
    """
    probe = probe.sampled()
    warnings: list[str] = []
    if old is not None and probe.held is not None:
        fresh = [i for i, digest in enumerate(probe.held.digests) if digest not in seen]
        if not fresh:
            warnings.append("the hasher in use learned from the held-out photos, so it is not compared on them")
        probe, whole = replace(probe, held=probe.held.take(fresh) if fresh else None), probe
        after = examine(probe if fresh else whole, new)
    else:
        after = examine(probe, new)
    before = examine(probe, old) if old is not None else None
    collapsed = _collapsed(before if same_length else None, after, n_classes, len(probe.own))
    warnings += _warnings(before, after) if not collapsed else []
    return Helped(after, before, warnings, collapsed)


def _collapsed(before: Health | None, after: Health, n_classes: int, n_photos: int) -> list[str]:
    reasons = []
    old, new = before.held_out_map if before else None, after.held_out_map
    if old is not None and new is not None and old - new > MAP_DROP:
        reasons.append(
            f"held-out source photos find their class far less well than with the hasher in use "
            f"(mAP {old:.3f} before, {new:.3f} now)"
        )
    # the best codes of two classes have half of their bits in common, of three a quarter (Hadamard)
    by_design = 2.0 ** (1 - n_classes) if n_classes in (2, 3) else 0.0
    if after.constant_bits > MOST_CONSTANT + by_design:
        reasons.append(f"{after.constant_bits:.0%} of the bits are the same for all photos")
    # and one of two may well have most of the photos
    most = MOST_IN_ONE_OF_TWO if n_classes == 2 else MOST_IN_ONE_CODE
    if n_photos >= FEW and after.commonest_code > most:
        reasons.append(f"{after.commonest_code:.0%} of the photos have one and the same code")
    return reasons


def _warnings(before: Health | None, after: Health) -> list[str]:
    if before is None:
        return []
    return [
        row.worse
        for row in ROWS
        if (old := getattr(before, row.measure)) is not None
        and (new := getattr(after, row.measure)) is not None
        and _gain(row, old, new) < -row.tolerance
    ]


def _gain(row: Row, before: float, after: float) -> float:
    return after - before if row.better == "higher" else before - after


def _verdict(row: Row, before: float | None, after: float) -> str:
    if before is None:
        return f"({row.better} is better)"
    gain = _gain(row, before, after)
    return "about the same" if abs(gain) < 0.005 else "better" if gain > 0 else "worse"


def _shown(value: float | None) -> str:
    return f"{value:7.3f}" if value is not None else f"{'-':>7}"
