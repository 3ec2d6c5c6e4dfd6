"""DCGH on WIKI (2,173 pairs of image and text, 693 queries, 10 classes), as in the paper's Table 1 and beside it.

    python benchmarks/wiki.py --data DIR     DIR holds wikiData.mat; writes benchmarks/results/wiki.json
    python benchmarks/wiki.py --table        write benchmarks/results/wiki.md from it

Tie-aware mAP over the full ranking, in percent, mean and deviation over the seeds:
paper     the gallery are the learned codes H, which know the photos' labels
product   the gallery are the hash functions' codes of the other modality's training rows, as in a library

Both modalities are histograms (visual words, topics), compared by the root of each entry, as Hellinger's distance does;
"as given" leaves that out. Kernel, roots and how codes start were chosen on 500 training pairs that were held out, of
two to four draws.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hashcli_plugins.dcgh import DCGH
from numpy.typing import NDArray
from scipy.io import loadmat
from tables import cell, markdown

from hashcli import codes, settings
from hashcli.data import SourceData, TrainingData
from hashcli.method import Run, Task
from hashcli.metrics import count_levels, measure
from hashcli.progress import Silent

BITS, SEEDS = (8, 16, 32, 64), range(5)
RESULTS = Path(__file__).with_name("results")
DIRECTIONS = ("image to text", "text to image")
FLOOR = {"image to text": [31.8, 35.4, 38.5, 38.4], "text to image": [71.3, 75.2, 76.0, 75.7]}
TABLE = {"image to text": [33.84, 37.35, 38.84, 39.87], "text to image": [75.10, 75.78, 76.89, 77.63]}


@dataclass(frozen=True)
class Variant:
    """Settings beside CHOSEN; the share of pairs torn apart; whether features are roots; code lengths."""

    words: tuple[str, ...] = ()
    torn: float = 0.0
    roots: bool = True
    bits: tuple[int, ...] = BITS

    def settings(self) -> Any:
        """All of them."""
        names = {word.partition("=")[0] for word in self.words}
        words = [word for word in CHOSEN if word.partition("=")[0] not in names]
        return settings.parse(DCGH.Settings, [*words, *self.words], "dcgh")


# The paper's lam, the width of the authors' code, and its kernel: of distances that are not squared
CHOSEN = ("kernel=laplacian", "width=1", "lam=0.01")
VARIANTS = {
    "dcgh": Variant(),
    "dcgh-d (alpha=0)": Variant(("alpha=0",), bits=(64,)),
    "dcgh-r (lam=0)": Variant(("lam=0",), bits=(64,)),
    "half unpaired": Variant(torn=0.5),
    "dcgh, features as given": Variant(roots=False, bits=(8, 64)),
    "dcgh, features as given, squared distances": Variant(("kernel=gaussian",), roots=False, bits=(64,)),
    "dcgh, published W-step": Variant(("w_step=paper",), bits=(64,)),
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


def run(pairs: dict[str, Any], variant: Variant, n_bits: int, seed: int) -> dict[str, float]:
    """mAP in percent of one fit, by protocol and direction."""
    rows = {name: np.sqrt(x) if variant.roots else x for name, x in pairs.items() if not name.startswith("L")}
    image, text = torn_apart(rows["I_tr"], rows["T_tr"], variant.torn, seed)
    data = TrainingData(SourceData(image, pairs["L_tr"], text=text), None, 10)
    method = DCGH(Task(n_bits, image.shape[1], 10, seed), variant.settings())
    method.check(data)
    fitted = method.fit(data, Run(seed, progress=Silent()))
    assert fitted.text is not None and fitted.training_codes is not None
    queries = dict(zip(DIRECTIONS, (bits(fitted.image, rows["I_te"]), bits(fitted.text, rows["T_te"])), strict=True))
    learned = codes.pack(fitted.training_codes)
    hashed = dict(zip(DIRECTIONS, (bits(fitted.text, rows["T_tr"]), bits(fitted.image, rows["I_tr"])), strict=True))
    galleries = {"paper": dict.fromkeys(DIRECTIONS, learned), "product": hashed}
    return {
        f"{protocol}, {direction}": 100
        * measure(count_levels(queries[direction], pairs["L_te"], gallery, pairs["L_tr"])).map
        for protocol, by_direction in galleries.items()
        for direction, gallery in by_direction.items()
    }


def read(path: Path) -> dict[str, Any]:
    """Features (n, d) float32 and class numbers (n,), as L_* (n, 10) has them one-hot."""
    table = loadmat(path)
    pairs: dict[str, Any] = {name: table[name].astype(np.float32) for name in ("I_tr", "T_tr", "I_te", "T_te")}
    return pairs | {name: table[name].argmax(1).astype(np.int64) for name in ("L_tr", "L_te")}


def measured(pairs: dict[str, Any], path: Path) -> None:
    """Measure all variants, code lengths and seeds that are not in the JSON file `path` yet, and add them."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    runs = record.get("runs", [])
    for name, variant in VARIANTS.items():
        chosen = settings.record(variant.settings())
        for n_bits, seed in itertools.product(variant.bits, SEEDS):
            what = {"variant": name, "bits": n_bits, "seed": seed, "settings": chosen}
            if any(what.items() <= old.items() for old in runs):
                continue
            scores = {key: round(score, 2) for key, score in run(pairs, variant, n_bits, seed).items()}
            old = {"variant": name, "bits": n_bits, "seed": seed}.items()
            runs = [*(r for r in runs if not old <= r.items()), what | scores]
            record = {"authors' code": FLOOR, "paper's table 1": TABLE, "runs": runs}
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(name, n_bits, seed, scores, flush=True)


def document(record: dict[str, Any]) -> str:
    """results/wiki.md."""
    parts = [
        "<!-- made by `python benchmarks/wiki.py --table` -->\n# DCGH on WIKI",
        "mAP in percent, mean ± standard deviation over the seeds. In the paper's protocol the gallery are the learned "
        "codes, which know the labels; in the product's it is hashed anew, as a library's. Both modalities are "
        "histograms; dcgh compares the roots of their entries unless a line says otherwise.",
    ]
    for protocol in ("paper", "product"):
        for direction in DIRECTIONS:
            lines = []
            if protocol == "paper":
                for name in ("paper's table 1", "authors' code"):
                    lines.append([name, *(f"{value:.1f}" for value in record[name][direction]), ""])
            for name in VARIANTS:
                runs = [run for run in record["runs"] if run["variant"] == name]
                by = [{r["seed"]: r[f"{protocol}, {direction}"] for r in runs if r["bits"] == n} for n in BITS]
                lines.append([name, *map(cell, by), str(max(map(len, by)))])
            table = markdown([direction, *(f"{n} bits" for n in BITS), "seeds"], lines)
            parts += [f"## {protocol.capitalize()}'s protocol, {direction}", table]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="DIR", help="the folder with wikiData.mat")
    what.add_argument("--table", action="store_true", help="write the table from the results that are there")
    arguments = parser.parse_args()
    path = RESULTS / "wiki.json"
    if arguments.data:
        measured(read(arguments.data / "wikiData.mat"), path)
    path.with_suffix(".md").write_text(document(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
