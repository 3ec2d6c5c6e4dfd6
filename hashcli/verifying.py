"""Every byte of a library against what was written, and the names of the photos that damage concerns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli import caption_store
from hashcli.errors import DamagedError
from hashcli.features import FeatureCache
from hashcli.gallery import Gallery
from hashcli.pages import structure
from hashcli.progress import Progress
from hashcli.roots import Roots

if TYPE_CHECKING:
    from hashcli.generation import Generation
    from hashcli.library import Library


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: with which item of the library, and for which photo (absolute path), if with one's."""

    item: str
    path: bytes | None
    problem: str


def verify(library: Library, progress: Progress) -> list[Finding]:
    """Read everything; what is wrong with it. Nothing is written."""
    try:
        current, generations = library.current(), library.generations()
    except DamagedError as error:
        return [Finding("library", None, str(error))]
    found: list[Finding] = []
    caches = feature_folders(library.folder)
    with progress.task("checking hashers, galleries and caches", len(generations) + len(caches)) as task:
        for generation in generations:
            found += _generation(generation)
            task.advance()
        for folder in caches:
            found += _features(folder, current)
            task.advance()
    if (library.folder / "identity" / "data.mdb").exists():
        problems = structure(library.folder / "identity" / "data.mdb") or []
        found += [Finding("identity", None, problem) for problem in problems]
    return found


def feature_folders(library: Path) -> list[Path]:
    """The folders of all feature caches."""
    return sorted(path for path in (library / "features").glob("*") if path.is_dir())


def _generation(generation: Generation) -> Iterator[Finding]:
    try:
        generation.hasher.verify()
    except DamagedError as error:
        yield Finding(f"{generation.name} hasher", None, str(error))
        return
    item = f"{generation.name} gallery"
    if not generation.has_gallery and generation.state == "staged":  # `index` will make it
        return
    try:
        with generation.gallery() as gallery:
            problems = gallery.verify()
            yield from (Finding(item, None, problem) for problem in problems)
            if problems:
                yield from (Finding(item, path, "its code cannot be read") for path in _codeless(gallery))
    except DamagedError as error:
        yield Finding(item, None, str(error))
    try:
        caption_store.read(generation.folder, generation.hasher)
    except DamagedError as error:
        yield Finding(f"{generation.name} captions", None, str(error))


def _codeless(gallery: Gallery) -> Iterator[bytes]:
    paths = {root.id: root.path for root in gallery.readable_roots()}
    for part in gallery.salvage():
        yield from (paths[r.root] + b"/" + r.path for r in part.codeless if r.root in paths)


def _features(folder: Path, current: Generation | None) -> Iterator[Finding]:
    item = f"features {folder.name}"
    try:
        found = structure(folder / "index" / "data.mdb") or []
        yield from (Finding(item, None, problem) for problem in found)
        if not found:
            with FeatureCache.kept(folder) as cache:
                digests = cache.digests(cache.verify())
            for digest, paths in _paths(digests, current):
                problem = f"the cached feature of the content {digest.hex()} is damaged"
                yield from (Finding(item, path, problem) for path in paths)
                if not paths:
                    yield Finding(item, None, problem)
    except DamagedError as error:
        yield Finding(item, None, str(error))


def _paths(digests: Iterable[bytes], current: Generation | None) -> list[tuple[bytes, list[bytes]]]:
    """The photos with each content, as far as the gallery in use can tell."""
    if current is not None:
        try:
            with current.gallery() as gallery:
                roots = Roots(gallery)
                return [
                    (digest, [roots.full(record) for record in gallery.records(gallery.slots_of_digest(digest))])
                    for digest in digests
                ]
        except (DamagedError, ValueError):  # told of elsewhere
            pass
    return [(digest, []) for digest in digests]
