"""hashcli: search your photos by compact binary codes learned from them.

import hashcli

lib = hashcli.Library("photos.hashcli")
lib.adapt("studio", "phone")
for match in lib.query("snapshot.jpg", k=10):
    print(match.distance, match.file)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashcli.api import IndexReport, Library, Match, QueryResult, Summary, TrainReport, WalkOptions
    from hashcli.errors import HashcliError, LibraryError, MachineError, RefusedError, UsageError

__version__ = "0.1.0"
__all__ = [
    "HashcliError",
    "IndexReport",
    "Library",
    "LibraryError",
    "MachineError",
    "Match",
    "QueryResult",
    "RefusedError",
    "Summary",
    "TrainReport",
    "UsageError",
    "WalkOptions",
]


def __getattr__(name: str) -> Any:
    """The names above, imported when they are first used: the command needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'hashcli' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("hashcli.errors" if name.endswith("Error") else "hashcli.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
