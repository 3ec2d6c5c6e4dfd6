"""What a library holds, in numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli.durable import disk_usage

if TYPE_CHECKING:
    from hashcli.generation import Generation
    from hashcli.library import Library
    from hashcli.records import Root


@dataclass(frozen=True)
class GenerationInfo:
    """One generation; `size` in bytes on the disk, files that an earlier one in the list shares left out."""

    name: str
    state: str
    created: str
    current: bool
    photos: int
    method: str
    n_bits: int
    backbone: str
    seed: int
    digest: str
    size: int


@dataclass(frozen=True)
class LibraryInfo:
    """All of it. Sizes are bytes on the disk; `missing` names the roots that are not there now."""

    folder: Path
    generations: list[GenerationInfo]
    roots: list[Root]
    missing: list[Root]
    feature_size: int
    work_size: int
    size: int


def take(library: Library) -> LibraryInfo:
    """Look at everything once. Raises DamagedError."""
    current = library.current()
    counted: set[tuple[int, int]] = set()
    generations = [_generation(g, current, counted) for g in library.generations()]
    roots: list[Root] = []
    if current is not None:
        with current.gallery() as gallery:
            roots = gallery.roots()
    return LibraryInfo(
        library.folder,
        generations,
        roots,
        [root for root in roots if not os.path.isdir(root.path)],
        disk_usage(library.folder / "features"),
        disk_usage(library.folder / "work"),
        disk_usage(library.folder),
    )


def _generation(generation: Generation, current: Generation | None, counted: set[tuple[int, int]]) -> GenerationInfo:
    photos = 0
    if generation.has_gallery:  # a staged one may have none yet
        with generation.gallery() as gallery:
            photos = gallery.count()
    hasher = generation.hasher
    return GenerationInfo(
        generation.name,
        generation.state,
        generation.created,
        current is not None and generation.name == current.name,
        photos,
        hasher.method,
        hasher.n_bits,
        hasher.spec.name,
        hasher.seed,
        hasher.digest,
        disk_usage(generation.folder, counted),
    )
