"""What a report's numbers mean, in plain words, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hashcli.evidence import DENSE, RESULTS, Evidence, Times

if TYPE_CHECKING:
    from hashcli.eval_report import Summary
    from hashcli.evidence import Curve, Floats

ENOUGH = 0.01  # mAP: a code length is enough when the best of all is less than this above it
REPEATING = 0.3  # mean |correlation| of bits from which they say the same too often
CHANCE = 0.03  # mAP: differences of one seed that may be chance


@dataclass(frozen=True)
class Told:
    """Sentences of plain text; `commands` are lines to type."""

    findings: list[str]
    advice: list[str]
    commands: list[str]


def best_method(summaries: Sequence[Summary]) -> Summary:
    """The method with the largest mAP of the report's protocol, cross-domain or given."""
    return max((s for s in summaries if s.protocol != "single-domain"), key=lambda s: s.mean["map"])


def tell(
    summaries: Sequence[Summary],
    evidence: Evidence,
    curves: Mapping[str, Curve],
    lengths: Mapping[str, Mapping[int, float]],
    times: Times,
    folders: tuple[str, str] | None,
) -> Told:
    """`folders` are --src and --tgt where methods were compared; None where the hasher in use was measured."""
    best = best_method(summaries)
    maps = {s.method: s.mean["map"] for s in summaries if s.protocol == best.protocol}
    first = first_right(curves[best.method])
    told = Told([], [], [])
    told.findings.append(
        f"{best.method} finds best: the first {RESULTS} photos hold {RESULTS * first:.1f} of the right class on "
        f"average (mAP {best.mean['map']:.3f}), when {len(evidence.queries.paths):,} photos look for their class among "
        f"{len(evidence.gallery.paths):,}."
    )
    if "source-only" in maps and len(maps) > 1:
        told.findings.append(_worth_adapting(best.method, maps))
    told.findings.append(
        f"By dense features of the backbone, without any code, the first {RESULTS} hold "
        f"{RESULTS * first_right(curves[DENSE]):.1f} right ones. They take {times.dense_bytes:,} bytes per photo, a "
        f"code takes {times.code_bytes}; a search among {times.n_photos:,} photos took {_ms(times.dense)} by "
        f"dense features and {_ms(times.code)} by code."
    )
    told.findings.append(
        f"A photo is nearer to one of its own class than to one of another in "
        f"{nearer(*evidence.pair_shares(best.method)):.0%} of cases; 50% would be chance."
    )
    n_bits = _tell_bits(told, best, evidence, lengths.get(best.method, {}))
    _tell_classes(told, evidence.by_class(best.method))
    if best.n_seeds == 1 and folders:
        told.advice.append(
            f"One seed was used: differences of less than some {100 * CHANCE:.0f} points of mAP may be chance. "
            "--seeds 5 tells."
        )
    if folders:
        src, tgt = (shlex.quote(folder) for folder in folders)
        told.commands.append(f"hashcli adapt --src {src} --tgt {tgt} --method {best.method} --bits {n_bits}")
    else:
        told.commands.append(
            "hashcli eval --src LABELED --tgt YOURS --method itq,source-only,couple --report report.html"
        )
    return told


def first_right(curve: Curve) -> float:
    """Share of right photos among the first RESULTS."""
    at = np.flatnonzero(curve.cuts <= RESULTS)[-1]
    return float(curve.precision[at])


def nearer(matching: Floats, others: Floats) -> float:
    """Probability that a matching pair is nearer than another one, equal distances counting half (area under ROC)."""
    farther = others.sum() - others.cumsum()
    return float((matching * (farther + others / 2)).sum())


def _worth_adapting(best: str, maps: Mapping[str, float]) -> str:
    adapted = {name: value for name, value in maps.items() if name != "source-only"}
    name = max(adapted, key=lambda method: adapted[method])
    gain = 100 * (adapted[name] - maps["source-only"])
    if gain > 100 * CHANCE:
        return f"Learning from your own photos as well is worth {gain:.1f} points of mAP ({name} against source-only)."
    if gain < -100 * CHANCE:
        return f"Learning from your own photos does not pay here: source-only is {-gain:.1f} points of mAP ahead."
    return f"{name} and source-only are about as good: your photos look much like the labeled ones, or too different."


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"


def _tell_bits(told: Told, best: Summary, evidence: Evidence, lengths: Mapping[int, float]) -> int:
    """What is found out about the bits; how many are enough."""
    enough = best.n_bits
    if len(lengths) > 1:
        most = max(lengths.values())
        enough = min(n_bits for n_bits, value in lengths.items() if value > most - ENOUGH)
        told.findings.append(f"{enough} bits are enough: no longer or shorter code is more than a point of mAP better.")
    correlation = np.abs(evidence.bit_correlation(best.method))
    constant = int(np.isnan(np.diagonal(correlation)).sum())
    off_diagonal = correlation[~np.eye(len(correlation), dtype=bool)]
    if constant:
        told.findings.append(f"{constant} of {len(correlation)} bits are the same for all photos and tell nothing.")
    if not np.isnan(off_diagonal).all() and np.nanmean(off_diagonal) > REPEATING:
        told.findings.append(
            f"The bits repeat one another (mean correlation {np.nanmean(off_diagonal):.2f}): few classes need few bits."
        )
    return enough


def _tell_classes(told: Told, shares: Mapping[str, float]) -> None:
    if len(shares) < 3:
        return
    worst = sorted(shares, key=lambda name: shares[name])[:3]
    named = ", ".join(f"{name} ({shares[name]:.0%} right)" for name in worst)
    told.findings.append(f"Hardest to find are {named}; easiest is {max(shares, key=lambda name: shares[name])}.")
    if shares[worst[0]] < 0.5:
        told.advice.append(f"More labeled photos of {worst[0]} and {worst[1]} would help most.")
