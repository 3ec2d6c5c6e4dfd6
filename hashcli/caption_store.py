"""captions.json of a generation: what is said about the photos of its gallery, with the captions' codes.

Photos are named by their contents, so that one that moves keeps its caption. Photos without a caption are listed as
well, so that `complete` reads about each photo once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hashcli import codes, versions
from hashcli.captions import caption_of
from hashcli.durable import replace_file
from hashcli.errors import DamagedError
from hashcli.photos import PhotoError, stat_photo
from hashcli.roots import Roots
from hashcli.seals import unreadable
from hashcli.text_encoder import TextEncoder

if TYPE_CHECKING:
    from hashcli.gallery import Gallery
    from hashcli.generation import Generation
    from hashcli.hasher import Hasher
    from hashcli.progress import Progress

FILE, FORMAT, VERSION = "captions.json", "hashcli-captions", 1


@dataclass(frozen=True)
class Captions:
    """Distinct captions in order of their text, those of no known word left out.

    codes (n, n_bits / 8) packed; photos: the digests of the photos that have each.
    """

    texts: tuple[str, ...]
    codes: NDArray[np.uint8]
    photos: tuple[tuple[bytes, ...], ...]


def write(folder: Path, hasher: Hasher, said: Mapping[bytes, str]) -> None:
    """Put the captions of photos, by digest, "" where there is none, in place of those in the generation's `folder`.

    A hasher that knows no words has none. Raises OSError.
    """
    if hasher.text_head_path is None:
        return
    photos: dict[str, list[str]] = {}
    for photo in sorted(said):
        photos.setdefault(said[photo], []).append(photo.hex())
    without = photos.pop("", [])
    texts = sorted(photos)
    encoder = TextEncoder(hasher)
    packed = codes.from_relaxed(encoder.relaxed(texts)) if texts else np.empty((0, hasher.n_bits // 8), np.uint8)
    known = encoder.understands(texts)
    captions = [
        [text, code.tobytes().hex() if understood else "", photos[text]]
        for text, code, understood in zip(texts, packed, known, strict=True)
    ]
    record: dict[str, Any] = {"format": FORMAT, "version": VERSION, "hasher": hasher.digest}
    record |= {"captions": captions, "without": without}
    replace_file(folder / FILE, json.dumps(record | {"digest": _digest(record)}).encode("ascii"))


def read(folder: Path, hasher: Hasher) -> Captions | None:
    """What `write` wrote; None where nothing was. Raises DamagedError, NewerFormatError."""
    record = _record(folder, hasher)
    if record is None:
        return None
    rows = [(text, code, photos) for text, code, photos in record["captions"] if code]
    packed = np.array([list(bytes.fromhex(code)) for _, code, _ in rows], np.uint8).reshape(-1, hasher.n_bits // 8)
    photos = (tuple(map(bytes.fromhex, digests)) for _, _, digests in rows)
    return Captions(tuple(text for text, _, _ in rows), packed, tuple(photos))


def by_photo(folder: Path, hasher: Hasher) -> dict[bytes, str]:
    """The captions by the photos' digests, "" for those without. Raises DamagedError, NewerFormatError."""
    record = _record(folder, hasher) or {"captions": [], "without": []}
    said = {bytes.fromhex(photo): text for text, _, photos in record["captions"] for photo in photos}
    return said | {bytes.fromhex(photo): "" for photo in record["without"]}


def complete(
    folder: Path,
    hasher: Hasher,
    gallery: Gallery,
    given: Mapping[bytes, str],
    before: Generation | None,
    progress: Progress,
) -> None:
    """See that the captions in a generation's `folder` are those of all photos of its gallery, and of no others.

    given    captions by digest that were read already; what the folder has of other photos stays
    before   the generation to inherit captions from; where it has none, they are read from beside or inside the photos

    Does nothing for a hasher that knows no words. Raises DamagedError, OSError.
    """
    if hasher.text_head_path is None:
        return
    old = by_photo(folder, hasher)
    known = {**(by_photo(before.folder, before.hasher) if before else {}), **old, **given}
    roots = Roots(gallery)
    said: dict[bytes, str] = {}
    unread: dict[bytes, list[bytes]] = {}
    for _, record in gallery.scan():
        if record.digest in known:
            said[record.digest] = known[record.digest]
        else:
            unread.setdefault(record.digest, []).append(roots.full(record))
    if unread:
        with progress.task("reading captions", len(unread)) as task:
            for photo, paths in unread.items():
                said[photo] = next(filter(None, map(_caption_at, paths)), "")
                task.advance()
    if said != old or not (folder / FILE).exists():
        write(folder, hasher, said)


def _caption_at(path: bytes) -> str:
    try:
        return caption_of(stat_photo(path, os.path.dirname(path)))
    except PhotoError:
        return ""


def _record(folder: Path, hasher: Hasher) -> dict[str, Any] | None:
    path = folder / FILE
    broken = partial(DamagedError, f"{path} is not what hashcli wrote", "`hashcli library repair` drops it")
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(str(path), error) from error
    except (ValueError, RecursionError):
        raise broken() from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or type(record.get("version")) is not int:
        raise broken()
    if record["version"] > VERSION:
        raise versions.newer(str(path), record["version"], VERSION)
    if record.pop("digest", None) != _digest(record) or record["hasher"] != hasher.digest:
        raise broken()
    return record


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
