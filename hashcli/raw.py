"""RAW photos, by the preview that the camera put into the file; LibRaw finds it (rawpy, the extra `raw`)."""

from __future__ import annotations

import io
import struct
from mmap import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION, _SUBFILE, _SUB_IFDS, _DNG_VERSION = 274, 254, 330, 50706
_MOST_TAGS = 512
_TURNS = {0: 1, 3: 3, 5: 8, 6: 6}  # LibRaw's flip -> Exif orientation


def looks_raw(data: bytes | mmap) -> bool:
    """Whether contents are those of a camera's RAW file, as far as their first bytes and tags tell."""
    head = bytes(data[:16])
    if head[4:11] == b"ftypcrx" or head.startswith((b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR")):
        return True  # Canon CR3, Fuji, Panasonic, Olympus
    if head.startswith((b"FOVb", b"\0MRM")) or (head.startswith(b"II*\0") and head[8:10] == b"CR"):
        return True  # Sigma, Minolta, Canon CR2
    return head[:4] in (b"II*\0", b"MM\0*") and _is_raw_tiff(data)


def _is_raw_tiff(data: bytes | mmap) -> bool:
    """DNG, or a TIFF whose first picture is a mere preview of one in another place (NEF, ARW, PEF and others)."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        entries = [struct.unpack_from(order + "HHII", data, start + 2 + 12 * i) for i in range(min(count, _MOST_TAGS))]
    except struct.error:
        return False
    tags = {tag: value for tag, _, _, value in entries}
    return _DNG_VERSION in tags or (tags.get(_SUBFILE) == 1 and _SUB_IFDS in tags)


def preview(data: bytes | mmap) -> Image.Image:
    """The embedded picture, its pixels not read yet, with the Exif orientation it is to be shown in.

    Raises ImportError without rawpy, ValueError when there is none.
    """
    import rawpy
    from PIL import Image

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            found, turn = raw.extract_thumb(), _TURNS.get(raw.sizes.flip, 1)
    except rawpy.LibRawError as error:
        raise ValueError(f"no preview in the RAW file: {error}") from error
    if isinstance(found.data, bytes):
        image: Image.Image = Image.open(io.BytesIO(found.data), formats=("JPEG",))
    else:
        image = Image.fromarray(found.data)
    image.getexif().setdefault(_ORIENTATION, turn)
    return image
