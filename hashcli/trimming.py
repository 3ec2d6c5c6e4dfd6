"""Keeping cached features within a limit: those of backbones that are not in use go first, the oldest before others."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from hashcli.durable import disk_usage
from hashcli.errors import UsageError
from hashcli.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from hashcli.library import Library

VARIABLE = "HASHCLI_FEATURES_GB"
DEFAULT_GB = 10.0  # of the default backbone: some four million photos


def trim(library: Library, progress: Progress) -> None:
    """Drop caches until they fit `limit()`; call it inside `library.writing()`.

    Those of the generation in use and of a staged one stay whatever their size: search orders its results by them.
    """
    in_use = {g.hasher.spec.key for g in (library.current(), library.staged()) if g}
    folder = library.folder / "features"
    sizes = {cache: disk_usage(cache) for cache in folder.iterdir()} if folder.is_dir() else {}
    too_much = sum(sizes.values()) - limit()
    for cache in sorted(sizes, key=_last_written):
        if too_much <= 0:
            return
        if cache.name not in in_use:
            shutil.rmtree(cache)
            too_much -= sizes[cache]
            progress.say(
                f"dropped {sizes[cache] / 1e6:,.0f} MB of features of a backbone that is not in use; "
                f"{VARIABLE} is the limit"
            )


def _last_written(cache: Path) -> int:
    try:
        return (cache / "index" / "data.mdb").stat().st_mtime_ns
    except OSError:
        return 0


def limit() -> float:
    """Bytes. Raises UsageError for what is no number; to be asked before the work that ends with trimming."""
    text = os.environ.get(VARIABLE, "")
    try:
        gigabytes = float(text or DEFAULT_GB)
    except ValueError:
        gigabytes = -1.0
    if not gigabytes >= 0:
        raise UsageError(f"{VARIABLE} is {text!r}, and a number of gigabytes is needed", f"{VARIABLE}={DEFAULT_GB:g}")
    return gigabytes * 1e9
