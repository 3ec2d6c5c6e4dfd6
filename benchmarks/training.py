"""Measure what learning costs from cached features: time and memory of graphs and fits, on synthetic collections.

    python benchmarks/training.py               everything, into results/training.json and the README's table
    python benchmarks/training.py --jobs fit    some of it, of refresh, fit, dsah, recall; the other figures stay

Features are float16 of 1,280 numbers, clustered, in two domains of 50 classes; they are drawn once and kept in --cache.
Each measure is made in a process of its own, which counts the memory that features and libraries take.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import timing
from numpy.typing import NDArray
from timing import Row

DIM, CLASSES, CLUSTERS, CHUNK = 1280, 50, 4, 10_000
LARGEST = 100_000
MINUTE, GIB = 60.0, 2**30
INTRO = """\
Learning from cached features of 1,280 numbers, codes of 64 bits; each measure in a process of its own, memory from its
start to its end. The features are made up, and noise decides which of a cluster are nearest: that makes neighbors hard
to find. Among 59,000 photos 98 % are found (`results/fashion.md`).

    python benchmarks/training.py"""

Features = NDArray[np.float16]


def drawn(cache: Path, domain: int) -> tuple[Features, NDArray[np.int64]]:
    """Features (LARGEST, DIM) of a domain and their classes (LARGEST,); the first n rows are a collection of n."""
    path = cache / f"training-{domain}.npz"
    if not path.exists():
        rng = np.random.default_rng(0)
        centers = rng.normal(size=(CLASSES, CLUSTERS, DIM)) * 0.6 + rng.normal(size=(CLASSES, 1, DIM))
        spread = (rng.normal(size=(DIM, DIM)) * np.arange(1, DIM + 1)[:, None] ** -0.3).astype(np.float32)
        spread *= 2.0 / np.linalg.norm(spread, axis=0).mean()
        shift = rng.normal(size=DIM)
        rng = np.random.default_rng([1, domain])
        classes = rng.integers(CLASSES, size=LARGEST)
        clusters = rng.integers(CLUSTERS, size=LARGEST)
        features = np.empty((LARGEST, DIM), np.float16)
        for start in range(0, LARGEST, CHUNK):
            rows = slice(start, start + CHUNK)
            noise = rng.standard_normal((CHUNK, DIM), np.float32) @ spread
            features[rows] = np.maximum(centers[classes[rows], clusters[rows]] + domain * shift + noise, 0)
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, features=features, classes=classes)
        part.rename(path)
    with np.load(path) as kept:
        return kept["features"], kept["classes"]


def refresh(cache: Path, n: int) -> Callable[[], object]:
    """One renewal of COUPLE's graph and of what spreads on it, n photos in each domain: a fit's last, the fullest."""
    import torch

    from hashcli import registry
    from hashcli.data import Bank, SourceData, TargetData, TrainingData
    from hashcli.fitting import normalized
    from hashcli.method import Run, Task
    from hashcli.network import fit_input_norm

    (source, classes), (target, _) = (drawn(cache, domain) for domain in (0, 1))
    source, classes, target = source[:n], classes[:n], target[:n]
    means = fit_input_norm(source, target, "per_domain")
    data = TrainingData(
        SourceData(normalized(source, means, 0), classes), TargetData(normalized(target, means, 1)), CLASSES
    )
    assert data.source is not None and data.target is not None
    cls = registry.load("couple")
    method: Any = cls(Task(64, DIM, CLASSES, 0), cls.Settings())
    head = method.build_head().eval()
    method.build_helpers()
    features = [torch.from_numpy(domain.features) for domain in (data.source, data.target)]

    def renew() -> None:
        with torch.no_grad():
            relaxed = [torch.cat([head(block) for block in x.split(8192)]) for x in features]
            bank = Bank(features[0], relaxed[0], features[1], relaxed[1], torch.from_numpy(classes))
            method.prepare(data, Run(0))
            method.begin_epoch(method.settings.epochs - 1, bank, Run(0))

    return renew


def fit(cache: Path, n: int, name: str = "couple") -> Callable[[], object]:
    """A whole fit on n photos in each domain; of methods without labels, on those of the target alone."""
    from hashcli.fitting import Labeled, Unlabeled, fit_method
    from hashcli.progress import Silent

    target = Unlabeled(drawn(cache, 1)[0][:n].copy())
    source = None
    if name == "couple":
        features, classes = drawn(cache, 0)
        source = Labeled(features[:n].copy(), classes[:n])
        del features
    return lambda: fit_method(name, (), source, target, n_classes=CLASSES, n_bits=64, seed=0, progress=Silent())


def dsah(cache: Path, n: int) -> Callable[[], object]:
    """DSAH on n photos."""
    return fit(cache, n, "dsah")


def recall(cache: Path, n: int) -> float:
    """Share of the 10 true neighbors that the approximation finds: 1,000 targets among n half-whitened sources."""
    from hashcli import graphs, nearest
    from hashcli.fitting import normalized
    from hashcli.network import fit_input_norm

    source, target = (drawn(cache, domain)[0][:n] for domain in (0, 1))
    means = fit_input_norm(source, target, "per_domain")
    domains = [graphs.unit_rows(normalized(x, means, number)) for number, x in enumerate((source, target))]
    whitening = graphs.whitening(np.concatenate(domains), 0.5)
    gallery, queries = (graphs.unit_rows(x @ whitening) for x in (domains[0], domains[1][:1000]))
    found = []
    for nearest.EXACT_ROWS in (n, 0):
        found.append(nearest.nearest(queries, gallery, 10)[0])
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*found, strict=True)]))


JOBS = {"refresh": refresh, "fit": fit, "dsah": dsah}


def measure(job: str, cache: Path, n: int) -> dict[str, float]:
    """In this process: seconds on the clock and of all cores, and the most memory held since it began."""
    if job == "recall":
        return {"recall": recall(cache, n)}
    call = JOBS[job](cache, n)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"wall": round(wall, 2), "cpu": round(cpu, 2), "peak": peak / GIB}


def apart(job: str, cache: Path, n: int) -> dict[str, float]:
    """As `measure`, in a fresh process."""
    command = [sys.executable, __file__, "--cache", str(cache), "--measure", job, "--rows", str(n)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(job, n, found, file=sys.stderr)
    return found


def rows(jobs: list[str], cache: Path, rounds: int) -> list[Row]:
    """Medians over the rounds, as lines of the table."""
    made: list[Row] = []

    def line(what: str, runs: list[dict[str, float]], **targets: float | None) -> None:
        """Time and memory of one thing, with targets by the name of the measure."""
        for name, title, unit in (("wall", "", "s"), ("cpu", ", both cores' time", "s"), ("peak", ", memory", "GiB")):
            middle = statistics.median(run[name] for run in runs)
            made.append(Row(what + title, "", middle, None, unit, at_most=targets.get(name), rounds=len(runs)))

    if "refresh" in jobs:
        runs = [apart("refresh", cache, LARGEST) for _ in range(rounds)]
        line("graph and diffusion, 100,000 + 100,000 photos", runs, wall=5 * MINUTE, peak=8.0)
    if "fit" in jobs:
        small, large = zip(
            *[(apart("fit", cache, 10_000), apart("fit", cache, 40_000)) for _ in range(rounds)], strict=True
        )
        line("COUPLE, 10,000 + 10,000 photos", list(small), wall=3 * MINUTE, peak=3.0)
        line("COUPLE, 40,000 + 40,000 photos", list(large), peak=3.0)
        medians = [statistics.median(run["wall"] for run in runs) for runs in (large, small)]
        made.append(Row("COUPLE, 40,000 + 40,000 photos", "10,000 + 10,000", *medians, "s", at_most=5.0, rounds=rounds))
    if "dsah" in jobs:
        line("DSAH, 100,000 photos", [apart("dsah", cache, LARGEST) for _ in range(rounds)])
    if "recall" in jobs:
        share = 100 * apart("recall", cache, LARGEST)["recall"]
        made.append(Row("true neighbors found among 100,000", "", share, None, "%", at_least=95.0, rounds=1))
    return made


def main() -> None:
    """Run the command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [*JOBS, "recall"]
    parser.add_argument("--jobs", help=f"comma between: {', '.join(every)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--cache", type=Path, default=platformdirs.user_cache_path("hashcli-benchmarks"))
    parser.add_argument("--measure", choices=every, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=LARGEST, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.cache, options.rows)))
        return
    for domain in (0, 1):
        drawn(options.cache, domain)
    facts = timing.machine()
    jobs = options.jobs.split(",") if options.jobs else every
    timing.finish("training", *timing.among("training", facts, rows(jobs, options.cache, options.rounds)), INTRO)


if __name__ == "__main__":
    main()
