"""Emoji found by their names and keywords, and these by emoji: DCGH against canonical correlation.

    python benchmarks/captions.py --data DIR     DIR holds emoji.tar; writes benchmarks/results/captions.json
    python benchmarks/captions.py --table        write benchmarks/results/captions.md from it

A fifth of the emoji, drawn by the seed, ask; the others train and are searched, by the codes that the hash functions
give them, as in a library. Relevant is what is of the same class. Tie-aware mAP over the full ranking, in percent.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from hashcli_plugins.dcgh import DCGH
from numpy.typing import NDArray
from tables import cell, markdown
from tasks import TASKS, photo_folder

from hashcli import backbones, codes, projections, settings
from hashcli.collection import collect, labeled_by_folder
from hashcli.data import SourceData, TrainingData
from hashcli.evaluation import hold_out
from hashcli.fitting import SOURCE, normalized, text_means
from hashcli.library import Library
from hashcli.method import Run, Task
from hashcli.metrics import count_levels, measure
from hashcli.network import fit_input_norm
from hashcli.parts import label_array, read_part
from hashcli.progress import Progress, Silent
from hashcli.talk import Talk
from hashcli.vocabulary import Vocabulary
from hashcli.walking import WalkOptions

RESULTS = Path(__file__).with_name("results")
BITS, SEEDS = (16, 32, 64, 128), range(5)
QUERIES = 0.2
DIRECTIONS = ("image to text", "text to image")
# Chosen among powers of ten on the training emoji of seed 0, a fifth of them held out.
RIDGE = {"cca-itq": 10.0, "label-itq": 1.0}

Array = NDArray[np.float64]
Packed = NDArray[np.uint8]
Hash = Callable[[NDArray[np.float32]], Packed]


@dataclass(frozen=True)
class Emoji:
    """Raw features (n, d) float16, what is said of each, class numbers (n,)."""

    features: NDArray[np.float16]
    said: list[str]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Emoji:
        return Emoji(self.features[rows], [self.said[i] for i in rows], self.labels[rows])


@dataclass(frozen=True)
class Pairs:
    """What methods see of training emoji and queries, normalized as hashcli does: images, texts, labels."""

    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, emoji: Emoji, means: NDArray[np.float32], vocabulary: Vocabulary) -> Pairs:
        texts = normalized(vocabulary.features(emoji.said), text_means(len(vocabulary)), SOURCE)
        return cls(normalized(emoji.features, means, SOURCE), texts, emoji.labels)


def load(data: Path, cache: Path, progress: Progress, vendor: str = "google") -> Emoji:
    """The emoji of one vendor."""
    folder = photo_folder(TASKS["emoji-google-twitter"], data, cache) / "emoji"
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        said = {os.fsencode(row["path"]): row["text"] for row in csv.DictReader(file)}
    collection = labeled_by_folder(collect(folder / vendor, "--data", WalkOptions()))
    backbone = backbones.exported(backbones.DEFAULT, progress)
    part = read_part(collection, backbone, Library.create(cache / "library"), None, progress)
    words = [said[vendor.encode() + b"/" + file.path] for file in part.files]
    return Emoji(part.features, words, label_array(part.labels, collection.classes, multi_label=False))


def split(emoji: Emoji, seed: int) -> tuple[Pairs, Pairs]:
    """Training emoji and queries; means and vocabulary come from the former alone."""
    held, rest = hold_out(len(emoji.labels), QUERIES, seed)
    train = emoji.take(rest)
    means = fit_input_norm(train.features, None, "per_domain")
    vocabulary = Vocabulary.fit(train.said)
    return Pairs.of(train, means, vocabulary), Pairs.of(emoji.take(held), means, vocabulary)


def dcgh(train: Pairs, n_bits: int, seed: int, words: list[str]) -> tuple[Hash, Hash]:
    """Hash functions of images and texts."""
    n_classes = int(train.labels.max()) + 1
    data = TrainingData(SourceData(train.images, train.labels, text=train.texts), None, n_classes)
    method = DCGH(Task(n_bits, train.images.shape[1], n_classes, seed), settings.parse(DCGH.Settings, words, "dcgh"))
    method.check(data)
    fitted = method.fit(data, Run(seed, progress=Silent()))
    assert fitted.text is not None
    return _module(fitted.image), _module(fitted.text)


def _module(head: torch.nn.Module) -> Hash:
    def hashed(rows: NDArray[np.float32]) -> Packed:
        with torch.inference_mode():
            return codes.pack(head(torch.from_numpy(rows)).numpy() >= 0)

    return hashed


def cca_itq(train: Pairs, n_bits: int, seed: int, words: list[str]) -> tuple[Hash, Hash]:
    """Canonical directions of images and texts, each times its correlation, rotated together."""
    x, y = (rows.astype(np.float64) for rows in (train.images, train.texts))
    return _rotated([x, y], _canonical(x - x.mean(0), y - y.mean(0), n_bits, _ridge(words, "cca-itq")), n_bits, seed)


def label_itq(train: Pairs, n_bits: int, seed: int, words: list[str]) -> tuple[Hash, Hash]:
    """As `cca_itq`, of images and texts with the labels: each is regressed to the orthonormal label space."""
    y = np.eye(int(train.labels.max()) + 1)[train.labels]
    basis, sizes, _ = np.linalg.svd(y - y.mean(0), full_matrices=False)
    basis = basis[:, sizes > 1e-6 * sizes[0]] * len(y) ** 0.5
    rows = [rows.astype(np.float64) for rows in (train.images, train.texts)]
    maps = [_regression(x - x.mean(0), basis, _ridge(words, "label-itq")) for x in rows]
    together = np.concatenate([(x - x.mean(0)) @ w for x, w in zip(rows, maps, strict=True)])
    directions = projections.principal_components(together, n_bits)[1]
    return _rotated(rows, [w @ directions for w in maps], n_bits, seed)


def _ridge(words: list[str], name: str) -> float:
    return float(words[0].removeprefix("ridge=")) if words else RIDGE[name]


def _regression(x: Array, y: Array, ridge: float) -> Array:
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
    return np.asarray(np.linalg.solve(gram, x.T @ y))


def _canonical(x: Array, y: Array, most: int, ridge: float) -> list[Array]:
    """Directions of centered x (n, d) and y (n, e) that correlate most, each times its correlation."""
    roots = []
    for rows in (x, y):
        covariance = rows.T @ rows / len(rows)
        covariance[np.diag_indices_from(covariance)] += ridge * np.trace(covariance) / len(covariance)
        roots.append(np.linalg.cholesky(covariance))
    whitened = np.linalg.solve(roots[0], np.linalg.solve(roots[1], y.T @ x / len(x)).T)
    left, correlations, right = np.linalg.svd(whitened, full_matrices=False)
    r = min(most, len(correlations))
    sides = (left[:, :r], right[:r].T)
    return [np.linalg.solve(root.T, side) * correlations[:r] for root, side in zip(roots, sides, strict=True)]


def _rotated(rows: list[Array], maps: list[Array], n_bits: int, seed: int) -> tuple[Hash, Hash]:
    """ITQ of what the maps make of both modalities."""
    means = [x.mean(0) for x in rows]
    projected = np.concatenate([(x - mean) @ w for x, mean, w in zip(rows, means, maps, strict=True)])
    rotation = projections.rotate(projected, n_bits, 50, seed)

    def hash_of(mean: Array, w: Array) -> Hash:
        return lambda x: codes.pack((x - mean) @ w >= 0)

    image, text = (hash_of(mean, w @ rotation) for mean, w in zip(means, maps, strict=True))
    return image, text


METHODS: dict[str, Callable[[Pairs, int, int, list[str]], tuple[Hash, Hash]]] = {
    "dcgh": dcgh,
    "cca-itq": cca_itq,
    "label-itq": label_itq,
}


def run(method: str, train: Pairs, asked: Pairs, n_bits: int, seed: int, words: list[str]) -> dict[str, float]:
    """mAP in percent by direction."""
    image, text = METHODS[method](train, n_bits, seed, words)
    asking, searched = (image(asked.images), text(asked.texts)), (text(train.texts), image(train.images))
    rankings = zip(DIRECTIONS, asking, searched, strict=True)
    return {
        direction: 100 * measure(count_levels(queries, asked.labels, gallery, train.labels)).map
        for direction, queries, gallery in rankings
    }


def document(runs: list[dict[str, Any]]) -> str:
    """results/captions.md."""
    parts = [
        "<!-- made by `python benchmarks/captions.py --table` -->\n# Emoji and words",
        "mAP in percent, mean ± standard deviation over the seeds. Google's emoji in 55 classes on frozen features of "
        "the default backbone; names and keywords as TF-IDF. A fifth of them ask, the others train and are searched by "
        "the codes of the hash functions. `cca-itq` correlates images with texts; `label-itq` regresses both to the "
        "classes, which DCGH knows as well.",
    ]
    for direction in DIRECTIONS:
        lines = []
        for method in METHODS:
            scores = [{r["seed"]: r[direction] for r in runs if (r["method"], r["bits"]) == (method, n)} for n in BITS]
            lines.append([f"`{method}`", *map(cell, scores), str(max(map(len, scores)))])
        table = markdown([direction, *(f"{n} bits" for n in BITS), "seeds"], lines)
        parts += [f"## {direction.capitalize()}", table]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="DIR", help="the folder with emoji.tar")
    what.add_argument("--table", action="store_true", help="write the table from the results that are there")
    parser.add_argument("--cache", type=Path, default=platformdirs.user_cache_path("hashcli-benchmarks"))
    arguments = parser.parse_args()
    path = RESULTS / "captions.json"
    if arguments.data:
        emoji = load(arguments.data, arguments.cache, Talk())
        runs: list[dict[str, Any]] = []
        for seed in SEEDS:
            train, asked = split(emoji, seed)
            for n_bits in BITS:
                for method in METHODS:
                    scores = run(method, train, asked, n_bits, seed, [])
                    rounded = {direction: round(score, 2) for direction, score in scores.items()}
                    runs.append({"method": method, "bits": n_bits, "seed": seed, **rounded})
                    print(runs[-1], flush=True)
        path.write_text("[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n", encoding="utf-8")
    path.with_suffix(".md").write_text(document(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
