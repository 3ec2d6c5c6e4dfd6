"""DSAH and its rivals on Fashion-MNIST, by the protocol of DSAH's Table 1: unsupervised, one domain.

    python benchmarks/fashion.py --data DIR      DIR holds fashion.npz; adds to benchmarks/results/fashion.json
    python benchmarks/fashion.py --table         write benchmarks/results/fashion.md from it

10,000 photos train without labels, 1,000 others ask, 59,000 others are searched. The measure is mAP@5000 divided by the
relevant found among these 5,000, the mean over ties, in percent. All photos pass through the pipeline that users run,
once. Runs that are there are not made again. Ablations have the same head, steps and settings as DSAH beside.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray
from PIL import Image
from tables import cell, markdown

from hashcli import backbones, graphs, nearest, neighbors, registry, settings
from hashcli.collection import collect, labeled_by_folder
from hashcli.fitting import TARGET, Unlabeled, fit_method
from hashcli.graphs import unit_rows
from hashcli.library import Library
from hashcli.metrics import average_precision_found, count_levels
from hashcli.parts import label_array, read_part
from hashcli.progress import Progress, Silent
from hashcli.talk import Talk
from hashcli.walking import WalkOptions

SPLITS = ("query", "train", "database")
RESULTS = Path(__file__).with_name("results")
BITS, SEEDS, FIRST = (16, 32, 64, 128), range(5), 5000
ABLATED_BITS = 64
FEATURES, NEIGHBORS = "features", "neighbors"  # titles of what is measured without codes
# title -> method, settings
RIVALS: dict[str, tuple[str, list[str]]] = {
    "DSAH": ("dsah", []),
    "ITQ": ("itq", []),
    "LSH": ("lsh", []),
    "SH": ("sh", []),
}
ABLATIONS: dict[str, tuple[str, list[str]]] = {
    "PIC0 AND0: neither": ("dsah", ["pic=off", "discovery=false"]),
    "PIC0 AND: pairs weigh the same": ("dsah", ["pic=off"]),
    "PIC- AND: weights -log(1 - p)": ("dsah", ["pic=minus"]),
    "PIC AND0: the first pairs stay": ("dsah", ["discovery=false"]),
}
SAID = {
    FEATURES: "Ranked by the cosine of their centered features, with no codes: {:.1f}.",
    NEIGHBORS: "Of the 10 true neighbors of a query in the database, approximate search finds {:.1f} %.",
}
# The paper's, on CIFAR-10 with VGG-19 trained as a whole
PAPER = {"DSAH": (59.6, 61.7, 62.2, 63.5), "ITQ": (26.9, 29.5, 31.6, 35.0)}


@dataclass(frozen=True)
class Split:
    """Raw features (n, d) float16 and class numbers (n,)."""

    features: NDArray[np.float16]
    labels: NDArray[np.int64]


def load(archive: Path, cache: Path, progress: Progress, workers: int | None = None) -> dict[str, Split]:
    """The three splits; photos and features are made once and kept in `cache`."""
    folder = cache / "photos" / "fashion"
    if not folder.exists():
        part = folder.with_name("fashion.part")
        shutil.rmtree(part, ignore_errors=True)
        write_photos(archive, part)
        part.rename(folder)
    backbone = backbones.exported(backbones.DEFAULT, progress)
    library = Library.create(cache / "fashion")
    splits = {}
    for name in SPLITS:
        collection = labeled_by_folder(collect(folder / name, "--data", WalkOptions()))
        part = read_part(collection, backbone, library, workers, progress)
        splits[name] = Split(part.features, label_array(part.labels, collection.classes, multi_label=False))
    return splits


def write_photos(archive: Path, folder: Path) -> None:
    """The archive's photos as FOLDER/SPLIT/CLASS/NUMBER.png."""
    with np.load(archive) as table:
        images, labels, names = table["images"], table["labels"], table["class_names"]
        for split in SPLITS:
            for name in names:
                (folder / split / str(name)).mkdir(parents=True)
            for i in table[split]:
                Image.fromarray(images[i]).convert("RGB").save(folder / split / str(names[labels[i]]) / f"{i:05d}.png")


def find_neighbors_once() -> None:
    """Let runs share what depends on the photos alone, and not on seed, code length or ablation: most of their time."""

    def once(function: Callable[..., Any]) -> Callable[..., Any]:
        found: dict[tuple[Any, ...], Any] = {}

        def known(rows: NDArray[Any], k: int) -> Any:
            key = (rows.shape, zlib.crc32(np.ascontiguousarray(rows).tobytes()), k)
            if key not in found:
                found[key] = function(rows, k)
            return found[key].copy()

        return known

    neighbors.neighbor_lists = once(neighbors.neighbor_lists)
    neighbors.shared_neighbor_pairs = once(neighbors.shared_neighbor_pairs)


def measured(splits: dict[str, Split], method: str, words: list[str], n_bits: int, seed: int) -> float:
    """mAP@5000 in percent of a method that sees the photos of `train` and no label."""
    hasher = fit_method(
        method,
        words,
        None,
        Unlabeled(splits["train"].features),
        n_classes=0,
        n_bits=n_bits,
        seed=seed,
        progress=Silent(),
        check_export=False,
    )
    query, database = splits["query"], splits["database"]
    packed = [hasher.codes(split.features, TARGET) for split in (query, database)]
    levels = count_levels(packed[0], query.labels, packed[1], database.labels)
    return 100 * float(average_precision_found(levels, FIRST).mean())


def without_codes(splits: dict[str, Split]) -> float:
    """mAP@5000 in percent of the features themselves, centered, by their cosine: what codes of them have to reach."""
    mean = splits["train"].features.mean(0, dtype=np.float64)
    query, database = (unit_rows((splits[name].features - mean).astype(np.float32)) for name in ("query", "database"))
    scores = []
    for feature, label in zip(query, splits["query"].labels, strict=True):
        similarity = database @ feature
        first = np.argpartition(-similarity, FIRST)[:FIRST]
        relevant = (splits["database"].labels[first] == label)[np.argsort(-similarity[first], kind="stable")]
        ranks = np.flatnonzero(relevant) + 1
        scores.append((np.arange(1, len(ranks) + 1) / ranks).mean() if len(ranks) else 0.0)
    return 100 * float(np.mean(scores))


def neighbors_found(splits: dict[str, Split]) -> float:
    """Percent of the queries' 10 true neighbors in the database that are found when neighbors are approximate.

    Features are half whitened, as COUPLE compares them.
    """
    mean = splits["database"].features.mean(0, dtype=np.float64)
    queries, gallery = (unit_rows((splits[name].features - mean).astype(np.float32)) for name in ("query", "database"))
    whitening = graphs.whitening(gallery, 0.5)
    queries, gallery = (unit_rows(x @ whitening) for x in (queries, gallery))
    found = []
    usual = nearest.EXACT_ROWS
    for nearest.EXACT_ROWS in (len(gallery), 0):
        found.append(nearest.nearest(queries, gallery, 10)[0])
    nearest.EXACT_ROWS = usual
    return 10 * float(np.mean([len(set(a) & set(b)) for a, b in zip(*found, strict=True)]))


def wanted() -> Iterator[tuple[str, str, list[str], int]]:
    """Title, method, settings and code length of all that is measured, what matters most first."""
    for n_bits in (64, 16, 32, 128):
        for title, (method, words) in RIVALS.items():
            yield title, method, words, n_bits
    for title, (method, words) in ABLATIONS.items():
        yield title, method, words, ABLATED_BITS


def chosen(method: str, words: list[str]) -> dict[str, Any]:
    """All settings as they are today."""
    return settings.record(settings.parse(registry.load(method).Settings, words, method))


def document(runs: list[dict[str, Any]]) -> str:
    """results/fashion.md."""
    by = {title: {n: {} for n in BITS} for title in (*RIVALS, *ABLATIONS)}
    for run in (run for run in runs if run["title"] in by):
        by[run["title"]][run["bits"]][run["seed"]] = run["map"]
    lines = [[title, *(cell(by[title][n]) for n in BITS), _counts(by[title])] for title in (*RIVALS, *ABLATIONS)]
    mean = {title: {n: np.mean(list(by[title][n].values())) for n in BITS if by[title][n]} for title in RIVALS}
    both = mean["DSAH"].keys() & mean["ITQ"].keys()
    lines.append(["DSAH / ITQ", *(f"{mean['DSAH'][n] / mean['ITQ'][n]:.2f}" if n in both else "" for n in BITS), ""])
    published = [a / b for a, b in zip(PAPER["DSAH"], PAPER["ITQ"], strict=True)]
    lines.append(["DSAH / ITQ in the paper, CIFAR-10", *(f"{ratio:.2f}" for ratio in published), ""])
    return (
        "\n\n".join(
            [
                "<!-- made by `python benchmarks/fashion.py --table` -->\n# DSAH on Fashion-MNIST",
                "mAP@5000 in percent on frozen features of the default backbone, mean ± standard deviation over "
                "the seeds: 1,000 queries, 10,000 training photos without labels, a database of 59,000. "
                "The ablations have the head, steps and settings of DSAH.",
                markdown(["", *(f"{n} bits" for n in BITS), "seeds"], lines),
                *(SAID[run["title"]].format(run["percent"]) for run in runs if run["title"] in SAID),
            ]
        )
        + "\n"
    )


def _counts(by_length: dict[int, dict[int, float]]) -> str:
    """How many seeds: one number where all lengths that were measured have as many."""
    counts = {len(runs) for runs in by_length.values() if runs}
    return " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="DIR", help="the folder with fashion.npz")
    what.add_argument("--table", action="store_true", help="write the table from the results that are there")
    parser.add_argument("--cache", type=Path, default=platformdirs.user_cache_path("hashcli-benchmarks"))
    arguments = parser.parse_args()
    path = RESULTS / "fashion.json"
    runs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if arguments.data:
        find_neighbors_once()
        splits = load(arguments.data / "fashion.npz", arguments.cache, Talk())
        for title, measure in ((FEATURES, without_codes), (NEIGHBORS, neighbors_found)):
            if not any(run["title"] == title for run in runs):
                runs.append({"title": title, "percent": round(measure(splits), 2)})
        for seed in SEEDS:
            for title, method, words, n_bits in wanted():
                run = {
                    "title": title,
                    "method": method,
                    "settings": chosen(method, words),
                    "bits": n_bits,
                    "seed": seed,
                }
                if any({**old, "map": 0} == {**run, "map": 0} for old in runs):
                    continue
                score = round(measured(splits, method, words, n_bits, seed), 2)
                key = ("title", "bits", "seed")
                runs = [old for old in runs if [old.get(k) for k in key] != [run[k] for k in key]]
                runs.append({**run, "map": score})
                path.write_text("[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n", encoding="utf-8")
                print(title, n_bits, "bits, seed", seed, score, flush=True)
    path.with_suffix(".md").write_text(document(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
