"""What is measured: pairs of photo collections, written as folders and read by the pipeline that users run."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import demo_data
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from hashcli import backbones
from hashcli.backbones import ExportedBackbone
from hashcli.collection import collect, with_classes
from hashcli.errors import UsageError
from hashcli.evaluation import unique_rows
from hashcli.library import Library
from hashcli.parts import Part, label_array, read_part
from hashcli.progress import Progress
from hashcli.walking import WalkOptions


@dataclass(frozen=True)
class Task:
    """Photos of `source` teach; photos of `target` adapt and ask. Both are paths below the folder of `photos`."""

    name: str
    title: str
    photos: str
    source: str
    target: str


@dataclass(frozen=True)
class Photos:
    """A task's photos, all read, each target photo once; labels (n,) are class numbers."""

    backbone: ExportedBackbone
    source: Part
    target: Part
    source_labels: NDArray[np.int64]
    target_labels: NDArray[np.int64]

    @property
    def inputs(self) -> dict[str, Any]:
        """What the measures depend on beside method, code length and seed, for JSON."""
        spec = self.backbone.spec
        return {
            "source": _inputs(self.source),
            "target": _inputs(self.target),
            "classes": len(self.source.collection.classes),
            "backbone": {"name": spec.name, "digest": spec.digest, "key": spec.key},
        }


def write_demo(_: Path, folder: Path) -> None:
    """The photos of `make demo`, phone/ and held-out/ together, as every seed draws queries of its own."""
    rng = np.random.default_rng(demo_data.SEED)
    pixels, digits = demo_data.mnist()
    rows = demo_data.per_digit(digits, demo_data.SOURCE_PER_DIGIT, rng)
    demo_data.write(folder / "mnist", demo_data.by_digit(pixels, digits, rows))
    pixels, digits = demo_data.optdigits()
    demo_data.write(folder / "optdigits", demo_data.by_digit(pixels, digits, np.arange(len(digits))))


def unpack(archive: Path, folder: Path) -> None:
    """Photos that lie in a tar file, in folders by class."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


def render_mat(file: Path, folder: Path) -> None:
    """Pixels of a MATLAB file: X_src, X_tar (256, n) from 0 to 1, of 16x16 pictures; Y_src, Y_tar (n, 1) from 1."""
    from scipy.io import loadmat

    mat = loadmat(file)
    for domain, suffix in (("mnist", "src"), ("usps", "tar")):
        pixels = np.rint(255 * mat[f"X_{suffix}"].T.reshape(-1, 16, 16)).clip(0, 255).astype(np.uint8)
        digits = mat[f"Y_{suffix}"].ravel().astype(np.int64) - 1
        demo_data.write(folder / domain, demo_data.by_digit(pixels, digits, np.arange(len(digits))))


def render_contours(file: Path, folder: Path) -> None:
    """200 photos of each class as they are, and 200 others as dark contours on white paper: a large shift of domain."""
    with np.load(file) as table:
        images, labels, names, train = (table[name] for name in ("images", "labels", "class_names", "train"))
    for number, name in enumerate(names):
        rows = train[labels[train] == number]
        for domain, chosen in (("photos", rows[:200]), ("contours", rows[200:400])):
            (folder / domain / str(name)).mkdir(parents=True)
            for row in chosen:
                photo = Image.fromarray(images[row])
                photo = photo if domain == "photos" else _contours(photo)
                photo.convert("RGB").save(folder / domain / str(name) / f"{row:05d}.png")


def _contours(photo: Image.Image) -> Image.Image:
    larger = photo.resize((56, 56), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(0.7))
    return ImageOps.invert(ImageOps.autocontrast(larger.filter(ImageFilter.FIND_EDGES)))


# What the photos are made from, a file below --data or one of this folder, and who makes them.
WRITERS: dict[str, tuple[str | Path, Callable[[Path, Path], None]]] = {
    "demo": (Path(demo_data.__file__), write_demo),
    "emoji": ("emoji.tar", unpack),
    "digits": ("digits.tar", unpack),
    "usps": ("MNIST_vs_USPS.mat", render_mat),
    "contours": ("fashion.npz", render_contours),
}
TASKS = {
    task.name: task
    for task in (
        Task("demo", "MNIST → optdigits, the demo's photos", "demo", "mnist", "optdigits"),
        Task("emoji-google-twitter", "emoji, Google → Twitter", "emoji", "emoji/google", "emoji/twitter"),
        Task("emoji-google-fluent", "emoji, Google → Fluent", "emoji", "emoji/google", "emoji/fluent"),
        Task("emoji-twitter-google", "emoji, Twitter → Google", "emoji", "emoji/twitter", "emoji/google"),
        Task("mnist-optdigits", "MNIST → optdigits", "digits", "digits/mnist", "digits/optdigits"),
        Task("mnist-usps", "MNIST → USPS", "usps", "mnist", "usps"),
        Task("usps-mnist", "USPS → MNIST", "usps", "usps", "mnist"),
        Task("fashion-contours", "fashion, photos → contours", "contours", "photos", "contours"),
    )
}


def available(data: Path | None) -> list[str]:
    """Names of the tasks whose photos can be made with this data folder."""
    return [name for name, task in TASKS.items() if (origin := _origin(task, data)) and origin.is_file()]


def photo_folder(task: Task, data: Path | None, cache: Path) -> Path:
    """The folder of the task's photos in `cache`, written if it is not there. Raises UsageError without its data."""
    origin = _origin(task, data)
    if origin is None or not origin.is_file():
        raise UsageError(
            f"task {task.name}: its photos are made from {WRITERS[task.photos][0]}", "name its folder: --data DIR"
        )
    version = hashlib.blake2b(origin.read_bytes(), digest_size=4).hexdigest()
    folder = cache / "photos" / f"{task.photos}-{version}"
    if not folder.exists():
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        WRITERS[task.photos][1](origin, part)
        part.rename(folder)
    return folder


def load(task: Task, data: Path | None, cache: Path, progress: Progress) -> Photos:
    """Photos, labels and features of a task; all that takes time is kept in `cache`.

    Raises UsageError when its data is not there or a photo cannot be read.
    """
    folder = photo_folder(task, data, cache)
    backbone = backbones.exported(backbones.DEFAULT, progress)
    library = Library.create(cache / "library")
    parts = []
    for name in (task.source, task.target):
        collection = with_classes(collect(folder / name, task.name, WalkOptions()), None, task.name)
        parts.append(read_part(collection, backbone, library, None, progress))
        if parts[-1].failures:
            raise UsageError(f"task {task.name}: {len(parts[-1].failures)} photos of {folder / name} cannot be read")
    source, target = parts
    target = target.take(unique_rows(target.digests, source.digests))
    labels = [label_array(part.labels, source.collection.classes, multi_label=False) for part in (source, target)]
    return Photos(backbone, source, target, *labels)


def _origin(task: Task, data: Path | None) -> Path | None:
    origin = WRITERS[task.photos][0]
    if isinstance(origin, Path):
        return origin
    return data / origin if data else None


def _inputs(part: Part) -> dict[str, Any]:
    """Count, and a digest over all photos' contents and labels, whatever their names."""
    said = hashlib.blake2b(digest_size=16)
    for line in sorted(
        f"{digest.hex()} {';'.join(labels)}\n" for digest, labels in zip(part.digests, part.labels, strict=True)
    ):
        said.update(line.encode())
    return {"photos": len(part), "digest": said.hexdigest()}
