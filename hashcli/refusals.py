"""What is said of networks that nobody knows, and of weights that do not fit theirs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from hashcli.errors import UsageError


def misfit(name: str, path: Path, reason: str) -> UsageError:
    """The weights at `path` are not of the network `name`; the first lines of the reason say why."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return UsageError(f"the weights in {path} do not fit {name}: {' '.join(lines[:2])[:300]}")


def unknown(family: str, name: str, known: Iterable[str]) -> UsageError:
    """No network of the family has that name; one that is known may be spelled alike."""
    separator = "" if family.endswith("/") else ":"
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {family}{separator}{near[0]}?" if near else None
    return UsageError(f"{family}{separator}{name} is not a network that {family.partition(':')[0]} knows", hint)
