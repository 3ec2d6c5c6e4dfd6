"""From file contents to pixels: one rule for all formats, a reason for every photo that fails, and its price."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from hashcli import photos
from hashcli.decoding import AHEAD, Decoded, decode_all, decode_one
from hashcli.errors import MachineError
from hashcli.photos import PhotoError, PhotoFile, decode

SIZE = 32


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """Smooth, colorful, and different in all four corners."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = 255 * x / (width - 1), 255 * y / (height - 1), 128 + 60 * np.sin(x / width * 6)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def expected(image: Image.Image, size: int = SIZE) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)).astype(int)


def error(data: bytes, image: Image.Image, fit: photos.Fit = "squash") -> float:
    """Mean difference between what was decoded and the picture squashed by the book."""
    pixels = decode(data, SIZE, fit)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    return float(np.abs(pixels - expected(image)).mean())


@pytest.mark.parametrize(
    ("form", "options", "bound"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("PPM", {}, 0),
        ("TGA", {}, 0),
        ("QOI", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG2000", {}, 0),
        ("JPEG", {"quality": 95}, 3),
        ("MPO", {"quality": 95}, 3),
        ("JPEG", {"quality": 95, "progressive": True}, 3),
    ],
)
def test_every_format_gives_the_same_picture(form, options, bound):
    assert error(encoded(scene(), form, **options), scene()) <= bound


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LAB", "YCbCr"])
def test_every_color_mode_gives_the_same_picture(mode):
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(scene(), ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    else:
        image = scene().convert(mode)
    like = {"L": image, "1": image, "P": image}.get(mode, scene())

    # dithered modes come near; conversions through other color spaces round
    assert error(encoded(image, "TIFF" if mode != "P" else "PNG"), like) < {"1": 6, "LAB": 3}.get(mode, 1.5)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(lambda gray: Image.fromarray(gray.astype(np.uint16) * 257), id="I;16"),
        pytest.param(lambda gray: Image.fromarray(gray.astype(np.int32) * 257), id="I"),
        pytest.param(lambda gray: Image.fromarray((gray / 255).astype(np.float32)), id="F to 1"),
        pytest.param(lambda gray: Image.fromarray(gray.astype(np.float32)), id="F to 255"),
    ],
)
def test_deep_pictures_are_scaled_not_clipped(image):
    gray = np.asarray(scene().convert("L"))
    assert error(encoded(image(gray), "TIFF"), scene().convert("L")) < 1


def test_big_endian_16_bit_tiff_is_scaled_too():
    gray = np.asarray(scene().convert("L")).astype(">u2") * 257
    tags = [(256, 96), (257, 64), (258, 16), (259, 1), (262, 1), (273, 200), (277, 1), (278, 64), (279, 96 * 64 * 2)]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries
    assert error(head.ljust(200, b"\0") + gray.astype(">u2").tobytes(), scene().convert("L")) < 1


def test_pixels_that_are_not_numbers_are_a_reason():
    broken = np.full((8, 8), np.nan, np.float32)
    with pytest.raises(PhotoError, match="not numbers"):
        decode(encoded(Image.fromarray(broken), "TIFF"), SIZE, "squash")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_exactly_once(form, orientation):
    turn = Image.Transpose
    undo = [None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM]
    undo += [turn.TRANSPOSE, turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270]
    stored = scene() if orientation == 1 else scene().transpose(undo[orientation - 1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(form, {})

    assert error(encoded(stored, form, exif=exif, **options), scene()) < 3


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0" + bytes(range(256)),
        b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03",
        b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\x08",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04top\0\0\0\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",
    ],
)
def test_corrupt_exif_leaves_sound_pixels_alone(exif):
    jpeg = encoded(scene(), "JPEG", quality=95)
    with_exif = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert error(with_exif, scene()) < 3


def swapped_profile() -> bytes:
    """sRGB's profile with the primaries of red and green exchanged: only who honors it sees true colors."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for place in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12):
        name = bytes(profile[place : place + 4])
        profile[place : place + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
    return bytes(profile)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("JPEG", {"quality": 95, "subsampling": 0})])
def test_embedded_profiles_are_converted_to_srgb(form, options):
    swapped = Image.merge("RGB", [scene().getchannel(c) for c in (1, 0, 2)])
    data = encoded(swapped, form, icc_profile=swapped_profile(), **options)
    assert error(data, scene()) < 4


@pytest.mark.parametrize(
    "profile",
    [
        b"noise" * 100,
        b"short",
        swapped_profile()[:200],
        swapped_profile()[:16] + b"CMYK" + swapped_profile()[20:],
    ],
)
def test_broken_and_unfit_profiles_are_ignored(profile):
    assert error(encoded(scene(), "PNG", icc_profile=profile), scene()) == 0


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (50, 40), (200, 0, 0, 0))
    half = Image.new("RGBA", (50, 40), (0, 0, 0, 128))
    palette = scene().quantize(8)
    keyed = encoded(Image.new("RGB", (9, 9), (1, 2, 3)), "PNG", transparency=(1, 2, 3))

    assert decode(encoded(clear, "PNG"), SIZE, "squash").min() == 255
    assert decode(encoded(clear.convert("LA"), "PNG"), SIZE, "crop").min() == 255
    assert set(np.unique(decode(encoded(half, "PNG"), SIZE, "squash"))) == {127}
    assert decode(keyed, SIZE, "squash").min() == 255
    assert decode(encoded(palette, "PNG", transparency=bytes(8)), SIZE, "squash").min() == 255


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_picture_of_many_counts(form):
    frames = [Image.new("RGB", (60, 60), color) for color in ("red", "lime", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    red, green, blue = decode(data, SIZE, "squash").reshape(-1, 3).mean(0)
    assert red > 240
    assert green < 20
    assert blue < 20


def test_squash_keeps_all_and_crop_keeps_the_middle():
    image = Image.new("RGB", (300, 100), "red")
    image.paste("lime", (100, 0, 200, 100))

    assert (decode(encoded(image, "PNG"), SIZE, "crop") == [0, 255, 0]).mean() > 0.9
    squashed = decode(encoded(image, "PNG"), SIZE, "squash")
    assert (squashed[:, [0, -1]] == [255, 0, 0]).all()
    assert (squashed[:, SIZE // 2] == [0, 255, 0]).all()
    turned = encoded(image.transpose(Image.Transpose.ROTATE_90), "PNG")
    assert (decode(turned, SIZE, "crop") == [0, 255, 0]).mean() > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (5000, 2), (33, 31)])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_odd_shapes_decode(shape, fit):
    assert (decode(encoded(Image.new("RGB", shape, "teal"), "PNG"), SIZE, fit) == [0, 128, 128]).all()


@pytest.mark.parametrize(("side", "decoded"), [(63, 63), (64, 64), (127, 127), (128, 64), (255, 128), (512, 64)])
def test_jpegs_are_scaled_down_while_decoding_to_no_less_than_twice_the_size(side, decoded, monkeypatch):
    loaded = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: loaded.append(self.size) or resize(self, *a, **k))

    decode(encoded(scene(side + 90, side), "JPEG"), SIZE, "crop")

    assert min(loaded[0]) == decoded


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"This is no picture.\n", "not an image", id="text"),
        pytest.param(bytes(5000), "not an image", id="zeros"),
        pytest.param(np.random.default_rng(1).bytes(5000), "not an image", id="noise"),
        pytest.param(b"\xff\xd8\xff\xe0", "not an image", id="magic only"),
        pytest.param(b"\0\0\0\x18ftypheic" + bytes(50), "HEIC|decoded", id="heic"),
        pytest.param(encoded(scene(), "JPEG")[:900], "truncated", id="truncated jpeg"),
        pytest.param(encoded(scene(), "PNG")[:200], "truncated", id="truncated png"),
        pytest.param(encoded(scene(), "WEBP")[:200], "decoded|not an image", id="truncated webp"),
        pytest.param(bomb(20000, 20000), "20000 x 20000 pixels, more than 250 million", id="bomb"),
        pytest.param(bomb(2**31 - 1, 2**31 - 1), "more than 250 million", id="great bomb"),
        pytest.param(encoded(scene(), "EPS"), "not an image", id="eps: never run Ghostscript"),
    ],
)
def test_what_cannot_be_decoded_is_a_reason(data, reason):
    with pytest.raises(PhotoError, match=reason):
        decode(data, SIZE, "squash")


def test_the_pixel_limit_is_the_callers(recwarn):
    data = bomb(11000, 10000)  # Pillow would warn of it
    with pytest.raises(PhotoError, match="cannot be decoded"):
        decode(data, SIZE, "squash")
    with pytest.raises(PhotoError, match="11000 x 10000 pixels, more than 100 million"):
        decode(data, SIZE, "squash", max_pixels=100_000_000)
    assert not recwarn.list


def test_random_damage_is_a_picture_or_a_reason(rng):
    whole = [encoded(scene(), form) for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF")]
    for data in whole:
        for _ in range(25):
            damaged = bytearray(data)
            for place in rng.integers(0, len(damaged), 6):
                damaged[place] = rng.integers(256)
            try:
                assert decode(bytes(damaged), SIZE, "crop", max_pixels=1_000_000).shape == (SIZE, SIZE, 3)
            except PhotoError as failure:
                assert failure.reason


# --- decoding in processes of their own

HOSTILE = """
import os, signal, time
import hashcli.pixels
sound = hashcli.pixels.decode_image
with open(os.environ["PIDS"], "a") as file:
    file.write(f"{os.getpid()} ")
def decode_image(data, *args):
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        time.sleep(60)
    if data == b"swell":
        len(bytearray(3 << 30))
    if data == b"exit":
        os._exit(3)
    if data == b"stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if data == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"print":
        print("noise on stdout", flush=True)
        os.write(1, b"noise on the descriptor")
        data = open(os.environ["SOUND"], "rb").read()
    if data == b"modules":
        import sys
        raise hashcli.pixels.PhotoError(" ".join({"numpy", "torch", "lmdb", "rich"} & set(sys.modules)) or "lean")
    return sound(data, *args)
hashcli.pixels.decode_image = decode_image
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Files whose contents say what decoding them does to the worker; `hostile(*contents)` writes them."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HOSTILE)
    (tmp_path / "sound.png").write_bytes(encoded(scene(), "PNG"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("SOUND", str(tmp_path / "sound.png"))

    def write(*contents: bytes) -> list[PhotoFile]:
        files = []
        for number, data in enumerate(contents):
            path = tmp_path / f"{number}.png"
            path.write_bytes(encoded(scene(), "PNG") if data == b"sound" else data)
            files.append(photos.stat_photo(os.fsencode(path), os.fsencode(tmp_path)))
        return files

    return write


def alive(pids: Path) -> list[int]:
    """Workers that still run (a zombie does not)."""
    running = []
    for pid in map(int, pids.read_text().split()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end while it is looked at
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                running.append(pid)
    return running


def gone(pids: Path) -> bool:
    """Whether all workers end, long before one that hangs would wake up; a busy machine may take its time."""
    deadline = time.monotonic() + 30
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pids)


def test_workers_give_what_decoding_here_gives(tmp_path, rng):
    files = []
    for number in range(20):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
        files.append(photos.stat_photo(os.fsencode(path), os.fsencode(tmp_path)))

    results = list(decode_all(files, SIZE, "crop", 2))

    assert [result.index for result in results] == list(range(20))
    for file, result in zip(files, results, strict=True):
        data = photos.read(file)
        assert result.digest == photos.digest(data)
        assert result.pixels is not None
        assert (result.pixels == decode(data, SIZE, "crop")).all()
        here = decode_one(file, SIZE, "crop")
        assert (here.digest, here.reason) == (result.digest, None)
        assert (here.pixels == result.pixels).all()


def test_hostile_photos_cost_only_themselves(hostile, tmp_path):
    contents = [b"sound", b"crash", b"sound", b"swell", b"exit", b"sound", b"hang", b"text", b"print", b"killed"]
    files = hostile(*contents)
    gone_file = PhotoFile(b"", os.fsencode(tmp_path / "absent.png"), 0, 0, 0, 0)

    results = list(decode_all([*files, gone_file], SIZE, "squash", 2, timeout=4, memory_limit=1 << 30))

    assert [result.reason for result in results] == [
        None,
        "crashes the decoder (SIGSEGV)",
        None,
        "needs too much memory to read",
        "crashes the decoder (exit code 3)",
        None,
        "takes longer than 4 s to decode",
        "is not an image, or damaged in its first bytes",
        None,
        "needs more memory than there is: the system killed the decoder",
        "no such file or directory",
    ]
    for content, result in zip(contents, results, strict=False):
        assert (result.pixels is not None) == (content in (b"sound", b"print"))
    assert [result.digest is None for result in results] == [False] * 6 + [True] + [False] * 2 + [True] * 2
    assert gone(tmp_path / "pids")


def test_a_worker_that_stands_still_is_replaced(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr("hashcli.worker._GRACE", 0.3)
    results = list(decode_all(hostile(b"stop", b"sound"), SIZE, "squash", 1, timeout=3))
    assert [result.reason for result in results] == ["takes longer than 3 s to decode", None]
    assert gone(tmp_path / "pids")


def test_workers_import_little(hostile):
    (result,) = decode_all(hostile(b"modules"), SIZE, "squash", 1)
    assert result.reason == "lean"


def test_known_contents_are_not_decoded(hostile):
    files = hostile(b"sound", b"crash", b"hang", b"sound")
    known = {photos.digest(b"crash"), photos.digest(b"hang")}

    results = list(decode_all(files, SIZE, "squash", 2, known=known.__contains__))

    assert [(result.pixels is None, result.reason) for result in results] == [
        (False, None),
        (True, None),
        (True, None),
        (False, None),
    ]
    assert results[1].digest == photos.digest(b"crash")


def test_no_more_than_a_bounded_number_is_decoded_ahead(hostile):
    files = hostile(b"sound") * (3 * AHEAD)
    asked = []
    decoded = decode_all(files, 8, "squash", 1, known=lambda digest: asked.append(digest) is not None)

    next(decoded)
    time.sleep(1.0)
    n_ahead = len(asked)
    decoded.close()

    assert 1 <= n_ahead <= AHEAD + 2


def test_closing_early_leaves_no_worker(hostile, tmp_path):
    decoded = decode_all(hostile(b"sound", b"hang", b"hang", b"hang"), SIZE, "squash", 2)
    next(decoded)

    started = time.monotonic()
    decoded.close()

    assert time.monotonic() - started < 15  # a photo has 20
    assert alive(tmp_path / "pids") == []


def test_no_files_need_no_workers(hostile, tmp_path):
    assert list(decode_all([], SIZE, "squash", 4)) == []
    assert not (tmp_path / "pids").exists()


def test_workers_that_cannot_start_are_an_error_of_the_machine(hostile, tmp_path):
    files = hostile(b"sound", b"sound")
    (tmp_path / "site" / "sitecustomize.py").write_text("import os; os.write(2, b'no luck\\n'); os._exit(1)")
    with pytest.raises(MachineError, match="does not start: no luck"):
        list(decode_all(files, SIZE, "squash", 2))


PARENT = """
import sys
from hashcli import decoding, photos
files = [photos.stat_photo(path.encode(), b"") for path in sys.argv[1:]]
for result in decoding.decode_all(files, 32, "squash", 2, timeout=1.5):
    print(result.index, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(hostile, tmp_path, how):
    hostile(b"sound", b"hang", b"hang")
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *paths], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    with parent.stdout as out:
        assert out.readline() == "0\n"
        parent.send_signal(how)
        assert parent.wait(60) == -how
    assert gone(tmp_path / "pids")


def test_one_photo_is_given_up_after_the_timeout(hostile, monkeypatch):
    (file,) = hostile(b"sound")
    monkeypatch.setattr("hashcli.decoding.decode", lambda *args: time.sleep(30))
    before = signal.getsignal(signal.SIGALRM)

    started = time.monotonic()
    result = decode_one(file, SIZE, "squash", timeout=0.2)

    assert time.monotonic() - started < 20
    assert result == Decoded(0, photos.digest(photos.read(file)), reason="takes longer than 0.2 s to decode")
    assert signal.getsignal(signal.SIGALRM) is before


def test_one_photo_that_fails_is_a_reason(hostile, tmp_path):
    (file,) = hostile(b"text")
    assert decode_one(file, SIZE, "squash").reason == "is not an image, or damaged in its first bytes"
    os.unlink(file.full)
    assert decode_one(file, SIZE, "squash") == Decoded(0, None, reason="no such file or directory")
