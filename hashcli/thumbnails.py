"""Small pictures of photos for people to look at, decoded where a bad photo can do no harm."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hashcli.decoding import decode_all
from hashcli.photos import PhotoError, stat_photo
from hashcli.pixels import MAT

if TYPE_CHECKING:
    from PIL import Image

    from hashcli.photos import PhotoFile
    from hashcli.progress import Progress

QUALITY = 78


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, sides in their true relation; or the `reason` why there is none."""

    image: Image.Image | None = None
    reason: str = ""

    def data_uri(self) -> str:
        """As WebP for the `src` of an HTML image. Raises ValueError without a picture."""
        if self.image is None:
            raise ValueError("there is no picture")
        out = io.BytesIO()
        self.image.save(out, "WEBP", quality=QUALITY, method=4)
        return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def thumbnails(paths: Iterable[bytes], size: int, workers: int | None, progress: Progress) -> dict[bytes, Thumbnail]:
    """A thumbnail of at most `size` x `size` pixels for each path, as the photo is now. Raises MachineError."""
    found: dict[bytes, Thumbnail] = {}
    files: dict[bytes, PhotoFile] = {}
    for path in dict.fromkeys(paths):
        try:
            files[path] = stat_photo(path, b"")
        except PhotoError as error:
            found[path] = Thumbnail(reason=error.reason)
    if not files:
        return found
    with (
        progress.task("making thumbnails", len(files)) as task,
        closing(decode_all(list(files.values()), size, "inside", workers)) as decoded,
    ):
        for path, photo in zip(files, decoded, strict=True):
            if photo.pixels is None:
                found[path] = Thumbnail(reason=photo.reason or "cannot be read")
            else:
                found[path] = Thumbnail(_picture(photo.pixels))
            task.advance()
    return found


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """The picture without the mat around it."""
    from PIL import Image

    inner = (pixels != np.array(MAT, np.uint8)).any(-1)
    rows, columns = np.flatnonzero(inner.any(1)), np.flatnonzero(inner.any(0))
    if len(rows):  # else the photo itself is of the mat's color
        pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray(np.ascontiguousarray(pixels))
