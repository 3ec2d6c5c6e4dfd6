"""Photos, trees and galleries that are made up: like those people have in all that costs time."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from hashcli.gallery import Gallery
from hashcli.records import Record

NOISE = 13  # of a sensor: makes JPEGs of 12 megapixels some 4.5 MB large
OCTAVES, FALLOFF = 7, 0.8
BLOCK = 500_000


def scene(seed: int, width: int, height: int, noise: Image.Image) -> Image.Image:
    """Forms of all sizes, with less contrast the smaller they are, as in nature; grain on top."""
    rng = np.random.default_rng(seed)
    small = (height // 8, width // 8)
    picture = np.zeros((*small, 3), np.float32)
    for octave in range(1, OCTAVES + 1):
        cells = rng.normal(0, 1, (max(2, 2**octave * 3 // 4), 2**octave)).astype(np.float32)
        layer = np.asarray(Image.fromarray(cells).resize(small[::-1], Image.Resampling.BICUBIC))
        picture += layer[..., None] * (rng.uniform(0.5, 1, 3) * 60 / 2 ** (FALLOFF * (octave - 1)))
    whole = Image.fromarray((picture + 120).clip(0, 255).astype(np.uint8)).resize((width, height))
    grain = ImageChops.offset(noise, int(rng.integers(width)), int(rng.integers(height)))
    return ImageChops.add(whole, grain, 1, -128)


def jpegs(folder: Path, width: int, height: int, distinct: int, copies: int) -> Path:
    """`distinct` scenes as JPEGs, each `copies` times with another byte at its end: other contents, same work."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = Image.effect_noise((width, height), NOISE).convert("RGB")
    for seed in range(distinct):
        if (folder / f"{seed:03d}-{copies - 1}.jpg").exists():
            continue
        out = io.BytesIO()
        scene(seed, width, height, noise).save(out, "JPEG", quality=90)
        for copy in range(copies):
            (folder / f"{seed:03d}-{copy}.jpg").write_bytes(out.getvalue() + b"%d" % copy)
    return folder


def tree(folder: Path, folders: int, each: int) -> Path:
    """`folders` folders with `each` tiny photos, all of the same contents."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(out, "JPEG")
    for number in range(folders):
        inner = folder / f"{number // 10:02d}" / f"{number:03d}"
        if (inner / f"IMG_{each - 1:04d}.JPG").exists():
            continue
        inner.mkdir(parents=True, exist_ok=True)
        for photo in range(each):
            (inner / f"IMG_{photo:04d}.JPG").write_bytes(out.getvalue())
    return folder


def gallery(folder: Path, photos: int) -> Gallery:
    """A gallery of so many photos in folders of a thousand, open for writing."""
    if (folder / "counter").exists():
        return Gallery.open(folder, write=True)
    made = Gallery.create(folder, 64, "0" * 64)
    made.add_root(b"/photos", "tgt")
    rng = np.random.default_rng(photos)
    for first in range(0, photos, BLOCK):
        made.append(*batch(rng, first, min(BLOCK, photos - first), b"old"))
    return made


def batch(rng: np.random.Generator, first: int, n: int, top: bytes) -> tuple[list[Record], NDArray[np.uint8]]:
    """Records and codes of `n` photos, numbered from `first` on, below the folder `top`."""
    records = [
        Record(0, b"%s/%05d/IMG_%08d.JPG" % (top, number // 1000, number), 4_000_000, 1, rng.bytes(16), None, "tgt")
        for number in range(first, first + n)
    ]
    return records, rng.integers(0, 256, (n, 8), dtype=np.uint8)


def bare_walk(folder: str | os.PathLike[str]) -> int:
    """How many files there are: what any program that looks for changes has to do at least."""
    found, todo = 0, [os.fspath(folder)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)
                    found += 1
    return found
