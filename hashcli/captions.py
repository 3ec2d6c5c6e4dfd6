"""What is said about photos: a table, text files beside them, or the metadata inside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hashcli.collection import Collection, read_column
from hashcli.embedded import embedded_caption
from hashcli.photos import PhotoError, PhotoFile, read, stat_photo
from hashcli.progress import Progress

MAX_SIDECAR = 64 << 10
SAMPLE = 64


def with_captions(collection: Collection, table: Path | None, progress: Progress) -> Collection:
    """The collection with each photo's caption, "" where it has none.

    From the CSV `table` (header `path,caption`) where one is given; else from the text file beside the photo
    (photo.jpg.txt or photo.txt), else from inside it (`embedded`). Raises UsageError for a table that cannot be used.
    """
    if table is not None:
        return replace(collection, captions=read_column(collection, table, "caption", "--captions-file", progress))
    captions = []
    with progress.task("reading captions", len(collection.files)) as task:
        for file in collection.files:
            captions.append(caption_of(file))
            task.advance()
    return replace(collection, captions=captions)


def are_common(collection: Collection) -> bool:
    """Whether at least half of the photos have a caption, told from 64 of them, evenly spaced."""
    step = -(-len(collection.files) // SAMPLE)
    some = collection.files[::step]
    return 2 * sum(bool(caption_of(file)) for file in some) >= len(some)


def caption_of(file: PhotoFile) -> str:
    """The caption from the text file beside a photo, else from inside it, else ""."""
    for path in _sidecars(file.full):
        try:
            text = bytes(read(stat_photo(path, b""), MAX_SIDECAR)).decode("utf-8-sig", "replace")
        except PhotoError:  # none, or none that is text
            continue
        if text.strip():
            return " ".join(text.split())
    try:
        return embedded_caption(read(file))
    except PhotoError:  # what is wrong with the photo is told by those who need its pixels
        return ""


def _sidecars(photo: bytes) -> Iterator[bytes]:
    yield photo + b".txt"
    stem, extension = os.path.splitext(photo)
    if extension:
        yield stem + b".txt"
