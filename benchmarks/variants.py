"""Who is measured: methods with their settings, alone or in groups that answer one question."""

from __future__ import annotations

import hashlib
import inspect
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hashcli import registry, settings
from hashcli.errors import UsageError
from hashcli.method import HashMethod

ORACLE = "oracle"  # source-only that is given the target's labels: a bound, so no installed method


@dataclass(frozen=True)
class Variant:
    """A method and its settings words ("name=value"); `title` is what tables call it."""

    method: str
    words: tuple[str, ...] = ()
    title: str = ""

    def __str__(self) -> str:
        return f"{self.method}[{','.join(self.words)}]" if self.words else self.method

    def settings(self) -> dict[str, Any]:
        """All its settings as they are today. Raises UsageError when there is no such method or setting."""
        return _settings(self)

    def code(self) -> str:
        """A digest of the file that the method is written in, NAME.py, and of its parts beside it, NAME_*.py."""
        file = Path(inspect.getfile(_method(self.method)))
        written = b"".join(path.read_bytes() for path in (file, *sorted(file.parent.glob(f"{file.stem}_*.py"))))
        return hashlib.blake2b(written, digest_size=8).hexdigest()


@cache
def _method(name: str) -> type[HashMethod]:
    return registry.load("source-only" if name == ORACLE else name)


@cache
def _settings(variant: Variant) -> dict[str, Any]:
    return settings.record(settings.parse(_method(variant.method).Settings, variant.words, variant.method))


def parse(text: str) -> list[Variant]:
    """Variants as the command line names them: `itq,couple[alpha=0.3,rho=0.2]`. Raises UsageError."""
    found = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\]?)+", text):
        match = re.fullmatch(r"([^\[\]]+)(?:\[([^\]]*)\])?", part.strip())
        if not match:
            raise UsageError(f"--methods: {part!r} is not a method", "write NAME or NAME[setting=value,...]")
        found.append(Variant(match[1], tuple(word.strip() for word in (match[2] or "").split(",") if word.strip())))
    return found


def _couple(title: str, **changes: object) -> Variant:
    return Variant("couple", tuple(f"{name}={value}" for name, value in changes.items()), title)


def _paper(title: str, **parts: object) -> Variant:
    """A row of COUPLE's ablation table: pseudo-labels of all targets, and the parts named."""
    off = {"selector": "all", "pixel_mixup": "off", "manifold_mixup": 0, "mean_teacher": 0}
    return _couple(title, **{**off, **parts})


def _sweep(name: str, *values: object, **fixed: object) -> list[Variant]:
    return [_couple(f"{name} {value}", **{name: value}, **fixed) for value in values]


def _tries(method: str, names: str, *values: tuple[object, ...], **fixed: object) -> list[Variant]:
    """Settings that a method's defaults were chosen from; all that vary are named, so no default changes a line."""
    tries = []
    for row in values:
        chosen = {**dict(zip(names.split(), row, strict=True)), **fixed}
        tries.append(Variant(method, tuple(f"{name}={value}" for name, value in chosen.items())))
    return tries


GROUPS = {
    "main": [
        Variant("lsh"),
        Variant("itq"),
        Variant("sh"),
        Variant("coral-itq"),
        Variant("cca-itq"),
        Variant("sdh"),
        Variant("source-only", ("centering=none",)),
        Variant("source-only"),
        Variant("self-training"),
        Variant("dah"),
        Variant("peace"),
        Variant("metah"),
        Variant("couple"),
        Variant(ORACLE),
    ],
    "metah": [
        Variant("source-only"),
        Variant("metah", ("classification=0", "entropy=0"), "TAH form: no classifier, no entropy"),
        Variant("metah", ("classification=0", "entropy=0", "pairwise=1", "domain=0.1"), "TAH form, its best settings"),
        Variant("metah", ("entropy=0",), "METAH-e: no entropy"),
        Variant("metah", (), "METAH"),
    ],
    "ablation": [
        Variant("source-only"),
        _paper("V1: pseudo-labels"),
        _paper("V2: V1 + flow", selector="flow"),
        _paper("V3: V1 + pixel mixup", pixel_mixup="pool"),
        _paper("V4: V1 + flow + pixel mixup", selector="flow", pixel_mixup="pool"),
        _paper("V5: V1 + manifold mixup", manifold_mixup=1),
        _paper("V6: V1 + flow + manifold mixup", selector="flow", manifold_mixup=1),
        _paper("V7: V1 + mean teacher", mean_teacher=0.99),
        _paper("full: flow, both mixups", selector="flow", pixel_mixup="pool", manifold_mixup=1),
    ],
    "switches": [
        Variant("couple"),
        *_sweep("selector", "pagerank", "margin", "all"),
        *_sweep("quota", "true"),
        *_sweep("capacity", "rho"),
        *_sweep("pseudo_labels", "head"),
        *_sweep("soft_labels", "false"),
        *_sweep("label_codes", "learned"),
        *_sweep("centering", "none", "pooled"),
        *_sweep("code_share", 0, 1),
        *_sweep("pixel_mixup", "pool"),
        _couple("no mixup", manifold_mixup=0, pixel_mixup="off"),
        _couple("mixup not progressive", progressive=0),
        *(
            _couple(f"{selector} selects 40 % throughout", selector=selector, alpha=0.4, alpha_end=0.4)
            for selector in ("flow", "pagerank", "margin")
        ),
    ],
    # filled, so that alpha is what limits the selection
    "sweep-alpha": _sweep("alpha", 0.2, 0.4, 0.6, 1, capacity="fill"),
    "sweep-alpha_end": _sweep("alpha_end", 0.4, 0.6, 0.8, 1, capacity="fill"),
    "sweep-rho": _sweep("rho", 0.1, 0.3, 0.5, 0.8, capacity="rho"),
    "sweep-reach": _sweep("reach", 0.5, 0.7, 0.8, 0.95),
    "sweep-consistency": _sweep("consistency", 0, 0.5, 1, 3),
    "sweep-temperature": _sweep("temperature", 0.1, 0.2, 0.5, 1),
    "sweep-walk_length": _sweep("walk_length", 1, 2, 3, 5),
    "sweep-neighbors": _sweep("neighbors", 3, 5, 10, 20),
    "sweep-target_weight": _sweep("target_weight", 0, 1, 2, 4),
    "sweep-manifold_mixup": _sweep("manifold_mixup", 0, 0.3, 1, 3),
    "sweep-least_mix": _sweep("least_mix", 0, 0.3, 0.5, 0.7),
    # twelve tries for each method that adapts, twenty for METAH, six for what is beneath all and for METAH's form
    "tune-source-only": _tries(
        *("source-only", "label_codes scale margin quantization"),
        *(("hadamard", 8, 0, 0.01), ("hadamard", 4, 0, 0.01), ("hadamard", 16, 0, 0.01)),
        *(("learned", 8, 0, 0.01), ("hadamard", 8, 0.2, 0.01), ("hadamard", 8, 0, 0.1)),
    ),
    "tune-self-training": _tries(
        *("self-training", "alpha soft_labels warmup target_weight"),
        *((0.6, False, 1, 1), (0.3, False, 1, 1), (1, False, 1, 1), (0.6, True, 1, 1), (0.3, True, 1, 1)),
        *((1, True, 1, 1), (0.6, True, 3, 1), (0.3, True, 3, 1), (0.6, True, 1, 0.3), (0.6, True, 1, 3)),
        *((0.6, False, 3, 0.3), (0.3, True, 3, 0.3)),
    ),
    "tune-dah": _tries(
        *("dah", "discrepancy entropy"),
        *((1, 0.1), (0.3, 0.1), (3, 0.1), (1, 0.3), (0.3, 0.3), (3, 0.3)),
        *((1, 0), (1, 0.03), (3, 0.03), (10, 0.1), (0.1, 0.1), (1, 1)),
    ),
    "tune-peace": _tries(
        *("peace", "adversary alignment target_weight warmup"),
        *((1, 1, 0.5, 1), (0.1, 1, 0.5, 1), (1, 0.1, 0.5, 1), (0.1, 0.1, 0.5, 1), (0.1, 1, 0.1, 1), (0.1, 1, 2, 1)),
        *((0.1, 3, 0.1, 1), (0.1, 1, 0.03, 1), (0.03, 1, 0.1, 1), (0.3, 1, 0.1, 1), (0.1, 1, 0.1, 2)),
        *((0.1, 0.3, 0.1, 1),),
    ),
    "tune-metah": _tries(
        *("metah", "likelihood classification domain entropy diversity entropy_start pairwise quantization"),
        *(("sigmoid", 10, 0.8, 0.3, 1, 0.1, 1, 0.1), ("tanh", 10, 0.8, 0.3, 1, 0.1, 1, 0.1)),
        *(("tanh", 10, 0.1, 0.3, 1, 0.1, 1, 0.1), ("tanh", 10, 0.1, 1, 1, 0.1, 1, 0.1)),
        *(("tanh", 10, 0.8, 1, 1, 0.1, 1, 0.1), ("tanh", 2, 0.1, 0.3, 1, 0.1, 1, 0.1)),
        *(("tanh", 30, 0.8, 0.3, 1, 0.1, 1, 0.1), ("tanh", 10, 2, 0.3, 1, 0.1, 1, 0.1)),
        *(("tanh", 10, 0.8, 0.1, 1, 0.1, 1, 0.1), ("tanh", 10, 0.8, 0.3, 3, 0.1, 1, 0.1)),
        *(("tanh", 10, 0.8, 0.3, 0, 0.1, 1, 0.1), ("tanh", 10, 0.8, 0.3, 1, 0.3, 1, 0.1)),
        *(("tanh", 10, 0.8, 0.3, 1, 0.1, 3, 0.1), ("tanh", 10, 0.8, 0.3, 1, 0.1, 1, 1)),
        *(("tanh", 10, 0.8, 1, 1, 0.1, 3, 0.1), ("tanh", 10, 0.8, 0.3, 1, 0.1, 10, 0.1)),
        *(("tanh", 1, 0.1, 0.3, 1, 0.1, 1, 0.1), ("tanh", 1, 0.1, 1, 1, 0.1, 1, 0.1)),
        *(("tanh", 2, 0.1, 0.3, 1, 0.1, 3, 0.1), ("tanh", 1, 0.8, 0.1, 1, 0.1, 10, 0.1)),
    ),
    "tune-tah": _tries(
        *("metah", "likelihood pairwise domain quantization"),
        *(("sigmoid", 1, 0.8, 0.1), ("tanh", 1, 0.8, 0.1), ("tanh", 1, 0.1, 0.1)),
        *(("sigmoid", 1, 0.1, 0.1), ("tanh", 10, 0.8, 0.1), ("tanh", 1, 0.1, 0.01)),
        classification=0,
        entropy=0,
    ),
}


def group(name: str) -> list[Variant]:
    """The variants of a group; of those that mean the same with today's defaults, the first."""
    distinct: dict[str, Variant] = {}
    for variant in GROUPS[name]:
        distinct.setdefault(f"{variant.method} {variant.settings()}", variant)
    return list(distinct.values())
