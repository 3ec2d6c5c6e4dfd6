"""RAW photos are shown by the preview that the camera put into them."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from hashcli.photos import PhotoError, decode
from hashcli.raw import looks_raw

SIZE = 32


def dng(jpeg: bytes, width: int, height: int, orientation: int = 1) -> bytes:
    """A DNG of 64 x 64 noisy sensor values, with a JPEG of other looks as its preview."""
    side = 64
    sensor = np.random.default_rng(0).integers(0, 4000, (side, side), dtype="<u2").tobytes()
    maker, model = b"Maker\0", b"Model 1\0"
    first, (n_first, n_second) = 8, (17, 9)
    second = first + 2 + 12 * n_first + 4
    at_maker = second + 2 + 12 * n_second + 4
    at_model = at_maker + len(maker)
    at_sensor = at_model + len(model)
    at_jpeg = at_sensor + len(sensor)

    def long(value: int) -> bytes:
        return struct.pack("<I", value)

    def ifd(*tags: tuple[int, int, int, bytes]) -> bytes:
        body = b"".join(struct.pack("<HHI4s", *tag) for tag in tags)
        return struct.pack("<H", len(tags)) + body + long(0)

    return b"".join(
        [
            b"II*\0" + long(first),
            ifd(
                (254, 4, 1, long(0)), (256, 4, 1, long(side)), (257, 4, 1, long(side)), (258, 3, 1, long(16)),
                (259, 3, 1, long(1)), (262, 3, 1, long(32803)), (271, 2, len(maker), long(at_maker)),
                (272, 2, len(model), long(at_model)), (273, 4, 1, long(at_sensor)), (274, 3, 1, long(orientation)),
                (277, 3, 1, long(1)), (278, 4, 1, long(side)), (279, 4, 1, long(len(sensor))),
                (330, 4, 1, long(second)), (33421, 3, 2, struct.pack("<HH", 2, 2)), (33422, 1, 4, bytes([0, 1, 1, 2])),
                (50706, 1, 4, bytes([1, 4, 0, 0])),
            ),
            ifd(
                (254, 4, 1, long(1)), (256, 4, 1, long(width)), (257, 4, 1, long(height)), (258, 3, 1, long(8)),
                (259, 3, 1, long(7)), (262, 3, 1, long(6)), (273, 4, 1, long(at_jpeg)), (277, 3, 1, long(3)),
                (279, 4, 1, long(len(jpeg))),
            ),
            maker, model, sensor, jpeg,
        ]
    )  # fmt: skip


def encoded(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, **options)
    return out.getvalue()


@pytest.fixture
def halves() -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (320, 200), "red")
    image.paste("blue", (160, 0, 320, 200))
    return image


def test_the_preview_is_what_counts_turned_as_the_camera_says(halves):
    level = decode(dng(encoded(halves), 320, 200), SIZE, "squash")
    upright = decode(dng(encoded(halves), 320, 200, orientation=6), SIZE, "squash")

    expected = np.asarray(halves.resize((SIZE, SIZE))).astype(int)
    assert np.abs(level - expected).mean() < 4
    turned = np.asarray(halves.transpose(Image.Transpose.ROTATE_270).resize((SIZE, SIZE))).astype(int)
    assert np.abs(upright - turned).mean() < 4


def test_a_preview_that_says_itself_how_it_is_turned_is_turned_once(halves):
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = decode(dng(encoded(halves, exif=exif), 320, 200, orientation=3), SIZE, "squash")
    expected = np.asarray(halves.transpose(Image.Transpose.ROTATE_180).resize((SIZE, SIZE))).astype(int)
    assert np.abs(turned - expected).mean() < 4


@pytest.mark.parametrize("end", [60, 300, 8600, -200])
def test_a_damaged_raw_file_is_a_reason_or_a_picture(halves, end):
    try:
        assert decode(dng(encoded(halves), 320, 200)[:end], SIZE, "crop").shape == (SIZE, SIZE, 3)
    except PhotoError as failure:
        assert failure.reason


def test_raw_files_are_told_from_pictures(halves):
    pictures = []
    for form in ("TIFF", "JPEG", "PNG"):
        out = io.BytesIO()
        halves.save(out, form)
        pictures.append(out.getvalue())
    raws = [b"II*\0\x10\0\0\0CR\2\0", b"FUJIFILMCCD-RAW 0201", b"\0\0\0\x18ftypcrx \0\0\0\1", b"IIU\0\x18\0\0\0"]

    assert [looks_raw(data) for data in (*pictures, b"", b"II*\0", b"MM\0*\xff\xff\xff\xff")] == [False] * 6
    assert all(looks_raw(data) for data in (*raws, dng(pictures[1], 320, 200)))


def test_without_its_package_the_extra_is_named(halves, monkeypatch):
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(PhotoError, match=r"is RAW: needs hashcli\[raw\]"):
        decode(dng(encoded(halves), 320, 200), SIZE, "crop")
