"""DCGH on WIKI (2,173 pairs of image and text, 693 queries, 10 classes), as in the paper's Table 1 and beside it.

    python benchmarks/wiki.py --data DIR     DIR holds wikiData.mat; writes benchmarks/results/wiki.json

Tie-aware mAP over the full ranking, in percent, mean and deviation over the seeds:
paper     the gallery are the learned codes H, which know the photos' labels
product   the gallery are the hash function's codes of the training images, as in a library
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hashcli_plugins.dcgh import DCGH
from numpy.typing import NDArray
from scipy.io import loadmat

from hashcli import codes, settings
from hashcli.data import SourceData, TrainingData
from hashcli.method import Run, Task
from hashcli.metrics import count_levels, measure

BITS, SEEDS = (8, 16, 32, 64), range(3)
FLOOR = {"image to text": [31.8, 35.4, 38.5, 38.4], "text to image": [71.3, 75.2, 76.0, 75.7]}
TABLE = {"image to text": [33.84, 37.35, 38.84, 39.87], "text to image": [75.10, 75.78, 76.89, 77.63]}
# name -> settings, share of the pairs that are torn apart, code lengths
VARIANTS: dict[str, tuple[list[str], float, tuple[int, ...]]] = {
    "dcgh": ([], 0.0, BITS),
    "dcgh, published W-step": (["w_step=paper"], 0.0, BITS),
    "dcgh, lam=0.01, width=1": (["lam=0.01", "width=1"], 0.0, BITS),
    "dcgh-d (alpha=0)": (["alpha=0"], 0.0, (64,)),
    "dcgh-r (lam=0)": (["lam=0"], 0.0, (64,)),
    "half unpaired": ([], 0.5, BITS),
}

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def torn_apart(image: Floats, text: Floats, share: float, seed: int) -> tuple[Floats, Floats]:
    """Rows of the images permuted in the first half of the share, those of the texts in the last half of it.

    Labels stay where they are, as in the paper: it has one label for each row.
    """
    rng, block = np.random.default_rng(seed), round(len(image) * share / 2)
    image, text = image.copy(), text.copy()
    image[:block] = image[rng.permutation(block)]
    text[len(text) - block :] = text[len(text) - block + rng.permutation(block)]
    return image, text


def bits(head: torch.nn.Module, rows: Floats) -> NDArray[np.uint8]:
    with torch.inference_mode():
        return codes.pack(head(torch.from_numpy(rows)).numpy() >= 0)


def run(pairs: dict[str, Any], words: list[str], share: float, n_bits: int, seed: int) -> dict[str, float]:
    """mAP in percent of one fit, by protocol and direction."""
    image, text = torn_apart(pairs["I_tr"], pairs["T_tr"], share, seed)
    data = TrainingData(SourceData(image, pairs["L_tr"], text=text), None, 10)
    method = DCGH(Task(n_bits, image.shape[1], 10, seed), settings.parse(DCGH.Settings, words, "dcgh"))
    method.check(data)
    fitted = method.fit(data, Run(seed))
    assert fitted.text is not None and fitted.training_codes is not None
    learned, hashed = codes.pack(fitted.training_codes), bits(fitted.image, pairs["I_tr"])
    queries = {"image to text": bits(fitted.image, pairs["I_te"]), "text to image": bits(fitted.text, pairs["T_te"])}
    rankings = [("paper", direction, learned) for direction in queries] + [("product", "text to image", hashed)]
    return {
        f"{protocol}, {direction}": 100
        * measure(count_levels(queries[direction], pairs["L_te"], gallery, pairs["L_tr"])).map
        for protocol, direction, gallery in rankings
    }


def read(path: Path) -> dict[str, Any]:
    """Features (n, d) float32 and class numbers (n,), as L_* (n, 10) has them one-hot."""
    table = loadmat(path)
    pairs: dict[str, Any] = {name: table[name].astype(np.float32) for name in ("I_tr", "T_tr", "I_te", "T_te")}
    return pairs | {name: table[name].argmax(1).astype(np.int64) for name in ("L_tr", "L_te")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder with wikiData.mat")
    pairs = read(parser.parse_args().data / "wikiData.mat")
    results: dict[str, Any] = {}
    for name, (words, share, lengths) in VARIANTS.items():
        results[name] = {"settings": settings.record(settings.parse(DCGH.Settings, words, "dcgh")), "bits": {}}
        for n_bits in lengths:
            runs = [run(pairs, words, share, n_bits, seed) for seed in SEEDS]
            columns = {key: [r[key] for r in runs] for key in runs[0]}
            results[name]["bits"][n_bits] = {
                key: {"mean": round(float(np.mean(v)), 2), "sd": round(float(np.std(v, ddof=1)), 2)}
                for key, v in columns.items()
            }
            print(
                name, n_bits, {key: value["mean"] for key, value in results[name]["bits"][n_bits].items()}, flush=True
            )
    record = {"seeds": len(SEEDS), "authors' code": FLOOR, "paper's table 1": TABLE, "results": results}
    path = Path(__file__).with_name("results") / "wiki.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
