"""File contents -> pixels the backbone takes: one fixed rule, for every photo alike.

Pillow is imported when the first photo is decoded: walking folders and showing results do without it.
"""

from __future__ import annotations

import functools
import importlib
import io
import math
import struct
import warnings
import zlib
from mmap import mmap
from typing import TYPE_CHECKING, Literal

from hashcli.raw import looks_raw, preview

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image, ImageCms

Fit = Literal["squash", "crop", "inside"]
Data = bytes | mmap

# Goes into the feature cache's key. Change it whenever the same file may give other pixels.
DECODE_RULE = "pillow: draft 2x, orient, bicubic, white, srgb; 1"
MAX_PIXELS = 250_000_000
MAT = (1, 254, 3)  # the color around a picture that was put "inside" a square; hardly a photo has it at its edges

# JPEG includes MPO. No EPS (runs Ghostscript), no formats that only pass for images now and then.
_COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
_OTHER_FORMATS = ("WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "QOI", "DDS", "SGI", "PCX", "TGA")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_MAX_PROFILE = 8 << 20
_PROFILE_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}

# What Pillow's parsers were seen to raise on damaged files, beside its own errors.
PARSER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


class PhotoError(Exception):
    """One photo cannot be used; `reason` says why. It is counted and reported, and never ends a run."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode(data: Data, size: int, fit: Fit, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The photo as sRGB pixels (size, size, 3) uint8, upright. Raises PhotoError.

    JPEGs are scaled down in the DCT domain as far as both sides stay at least 2 * size. The Exif orientation is
    applied, then `fit`: "squash" resizes to the square, "crop" takes the central square; both bicubic with
    antialiasing; "inside", for thumbnails, puts the whole picture in the middle of the square, on MAT. Transparency
    is laid on white, an embedded color profile converted to sRGB. Of animations and multi-page files the first
    picture is taken.
    """
    import numpy as np

    return np.asarray(decode_image(data, size, fit, max_pixels))


def decode_image(data: Data, size: int, fit: Fit, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As `decode`, as a Pillow image of mode RGB, without the help of numpy."""
    from PIL import Image

    if fit not in ("squash", "crop", "inside"):
        raise ValueError(f"fit is squash, crop or inside, got {fit!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = open_image(data)
            width, height = image.size
            if width * height > max_pixels:
                raise PhotoError(f"has {width} x {height} pixels, more than {max_pixels / 1e6:g} million")
            if width * height == 0:
                raise PhotoError("has no pixels")
            image.draft(None, (2 * size, 2 * size))
            image.load()
            profile = image.info.get("icc_profile")
            white = _white(image)
            image = _plain_mode(_upright(image))
            scaled = _scaled(image.size, size) if fit == "inside" else (size, size)
            image = image.resize(scaled, Image.Resampling.BICUBIC, box=_box(image.size, fit))
            if white is not None:
                image = image.point(lambda value: value * (255 / white) + 0.5).convert("L")
            image = _to_srgb(_on_white(image), profile)
            return _on_mat(image, size) if fit == "inside" else image
        except MemoryError:
            raise PhotoError("needs too much memory to decode") from None
        except PARSER_ERRORS as error:
            raise PhotoError(f"cannot be decoded: {error or type(error).__name__}") from error


def open_image(data: Data) -> Image.Image:
    """The photo with its header read and no pixel yet. Raises PhotoError, and what Pillow's parsers raise."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # the cap on pixels is ours, and not a warning
    if not data:
        raise PhotoError("is empty")
    if looks_raw(data):
        try:
            return preview(data)
        except ImportError:
            raise PhotoError("is RAW: needs hashcli[raw]") from None
    for formats in (_COMMON_FORMATS, _OTHER_FORMATS):  # the others cost the import of all Pillow's plugins
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        stream.seek(0)
        try:
            return Image.open(stream, formats=formats)  # type: ignore[arg-type]  # an mmap reads and seeks
        except UnidentifiedImageError:
            continue
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return _open_heif(data)
    raise PhotoError("is not an image, or damaged in its first bytes")


def _open_heif(data: Data) -> Image.Image:
    from PIL import Image

    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        raise PhotoError("is HEIC: needs hashcli[heic]") from None
    return Image.open(io.BytesIO(data), formats=("HEIF",))


def _upright(image: Image.Image) -> Image.Image:
    from PIL import Image

    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    try:
        # read after load(): the TIFF and HEIF plugins turn the picture themselves then, and drop the tag
        orientation = image.getexif().get(0x0112)
    except PARSER_ERRORS:  # corrupt Exif beside sound pixels
        return image
    if not isinstance(orientation, int) or orientation not in turns:
        return image
    return image.transpose(turns[orientation])


def _white(image: Image.Image) -> float | None:
    """The value that shows as white where that is not 255: of the usual ranges, the one the values are made for."""
    if image.mode.startswith("I;16"):
        return 65535.0
    if image.mode not in ("I", "F"):
        return None
    peak = float(image.getextrema()[1])  # type: ignore[arg-type]  # one band: two numbers
    if not math.isfinite(peak):
        raise PhotoError("has pixels that are not numbers")
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    return next((white for white in ranges if peak <= white), peak)


def _plain_mode(image: Image.Image) -> Image.Image:
    """One of L, F, RGB, RGBA, CMYK, LAB: modes that can be resized and color-managed."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return image.convert("F")
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _box(size: tuple[int, int], fit: Fit) -> tuple[float, float, float, float]:
    """The part of the picture that fills the square. Cropping first keeps a 1 x 20000 strip from growing."""
    width, height = size
    if fit != "crop":
        return 0, 0, width, height
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _scaled(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height of the whole picture in the square."""
    width, height = shape
    longer = max(width, height)
    return max(1, round(width * size / longer)), max(1, round(height * size / longer))


def _on_mat(image: Image.Image, size: int) -> Image.Image:
    from PIL import Image

    mat = Image.new("RGB", (size, size), MAT)
    mat.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return mat


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return white.convert("RGB")


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """Color-managed after resizing, when there is little left to convert. A broken or unfit profile is ignored."""
    if isinstance(profile, bytes) and 128 <= len(profile) <= _MAX_PROFILE:
        transform = _transform(profile, image.mode)
        if transform is not None:
            return transform.apply(image)
    return image.convert("RGB")


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _PROFILE_SPACES.get(mode):
            return None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.ImageCmsTransform(source, target, mode, "RGB")
    except (ImageCms.PyCMSError, *PARSER_ERRORS):
        return None
