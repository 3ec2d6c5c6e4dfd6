"""How photos that are not square should become square: squashed, or cropped to the middle.

Drawings of 30 classes (the emoji collection's `fluent` domain, the same labels for both ways) stand somewhere in
pictures of the shapes that cameras make, before pieces of two real photos; then they are searched for with the raw
features of the default backbone. mAP of each picture among all others by cosine, a hit being the same
class.

    python benchmarks/fit.py EMOJI.tar      writes benchmarks/results/fit.json
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from hashcli import backbones
from hashcli.encoder import BackboneSession
from hashcli.photos import decode
from hashcli.progress import Silent

SHAPES = [(4, 3), (3, 2), (16, 9), (3, 4), (2, 3), (9, 16)]
PLACES = {"anywhere": 1.0, "near the middle": 0.4, "in the middle": 0.0}  # share of the free room that is used
FITS = ("squash", "crop")
CLASSES, PER_CLASS, SHORT_SIDE = 30, 20, 360


def drawings(archive: Path) -> list[tuple[str, Image.Image]]:
    """(class, drawing with transparent ground), the largest classes first."""
    found: dict[str, list[bytes]] = {}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            parts = Path(member.name).parts
            file = tar.extractfile(member) if len(parts) == 4 and parts[1] == "fluent" else None
            if file is not None:
                found.setdefault(parts[2], []).append(file.read())
    largest = sorted(found, key=lambda c: (-len(found[c]), c))[:CLASSES]
    return [(c, Image.open(io.BytesIO(data)).convert("RGBA")) for c in largest for data in found[c][:PER_CLASS]]


def picture(drawing: Image.Image, ground: Image.Image, room: float, rng: np.random.Generator) -> bytes:
    """The drawing, 55 to 95 % of the short side, somewhere before a piece of a photo, as a JPEG file."""
    wide, high = SHAPES[rng.integers(len(SHAPES))]
    scale = SHORT_SIDE / min(wide, high)
    width, height = round(wide * scale), round(high * scale)
    left, top = (int(rng.integers(0, free + 1)) for free in (ground.width - width, ground.height - height))
    canvas = ground.crop((left, top, left + width, top + height))
    side = round(SHORT_SIDE * rng.uniform(0.55, 0.95))
    place = [round((free - side) * (0.5 + room * rng.uniform(-0.5, 0.5))) for free in (width, height)]
    small = drawing.resize((side, side))
    canvas.paste(small, (place[0], place[1]), small)
    out = io.BytesIO()
    canvas.save(out, "JPEG", quality=92)
    return out.getvalue()


def mean_average_precision(features: NDArray[np.float16], labels: NDArray[np.int64]) -> float:
    """mAP of each row among all others, by cosine."""
    x = features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    scores = []
    for row, label in zip(similarity, labels, strict=True):
        hits = labels[np.argsort(-row, kind="stable")[:-1]] == label
        scores.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return float(np.mean(scores))


def main(archive: Path) -> None:
    backbone = backbones.exported(backbones.DEFAULT, Silent())
    session = BackboneSession(backbone.folder, backbone.spec, threads=1)
    drawn = drawings(archive)
    names = sorted({c for c, _ in drawn})
    labels = np.array([names.index(c) for c, _ in drawn])
    grounds = [Image.fromarray(image).resize((1280, 854)) for image in load_sample_images().images]
    results: dict[str, dict[str, float]] = {}
    for place, room in PLACES.items():
        rng = np.random.default_rng(0)
        pictures = [picture(d, grounds[rng.integers(2)], room, rng) for _, d in drawn]
        results[place] = {}
        for fit in FITS:
            pixels = np.stack([decode(p, backbone.spec.size, fit) for p in pictures])
            results[place][fit] = round(mean_average_precision(session.features(pixels), labels), 4)
        print(place, results[place])
    record = {"backbone": backbone.spec.name, "pictures": len(drawn), "classes": len(names), "map": results}
    Path(__file__).with_name("results").joinpath("fit.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
