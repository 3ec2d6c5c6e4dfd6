"""Backbones and hashers of a few hundred bytes, as real ONNX files: a library around them costs no time.

The backbone gives the mean colors of a photo's four quarters, so that a test knows which photos look alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hashcli import carrying
from hashcli.backbones import FILE_NAME, ExportedBackbone, Spec
from hashcli.decoding import Decoded, decode_one
from hashcli.extraction import extract
from hashcli.generation import Generation
from hashcli.hasher import Hasher
from hashcli.library import Library
from hashcli.photos import Fit, PhotoFile
from hashcli.progress import Progress, Silent
from hashcli.records import Domain
from hashcli.walking import walk

SIZE, DIM, N_BITS = 8, 12, 64


class Heard(Silent):
    """Keeps what is said, and shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def decode_here(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Decode in this process instead of in workers, whose start costs more than a whole test.

    Gives the list that the path of every photo opened from now on is added to.
    """
    opened: list[bytes] = []

    def one(file: PhotoFile, size: int, fit: Fit) -> Decoded:
        opened.append(file.full)
        return decode_one(file, size, fit)

    def all_(
        files: Sequence[PhotoFile],
        size: int,
        fit: Fit,
        workers: int | None = None,
        *,
        known: Callable[[bytes], bool] | None = None,
        ahead: int = 0,
    ) -> Iterator[Decoded]:
        for index, file in enumerate(files):
            decoded = replace(one(file, size, fit), index=index)
            skipped = known is not None and decoded.digest is not None and known(decoded.digest)
            yield replace(decoded, pixels=None, reason=None) if skipped else decoded

    monkeypatch.setattr("hashcli.extraction.decode_all", all_)
    monkeypatch.setattr("hashcli.decoding.decode_all", all_)
    monkeypatch.setattr("hashcli.decoding.decode_one", one)
    return opened


def photo(path: Path, *colors: int, size: int = SIZE) -> Path:
    """Write a photo whose four quarters have these gray values (one value: all of them)."""
    quarters = np.array(colors if len(colors) == 4 else [colors[0]] * 4, np.uint8).reshape(2, 2)
    pixels = np.repeat(np.repeat(quarters, size // 2, 0), size // 2, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([pixels] * 3, -1)).save(path)
    return path


def noise(path: Path, seed: int) -> Path:
    """Write a photo of random quarters, another one for each seed."""
    return photo(path, *np.random.default_rng(seed).integers(0, 256, 4).tolist())


def backbone(folder: Path, scale: float = 1.0) -> ExportedBackbone:
    """A backbone exported to `folder`; another `scale` makes it another backbone."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Sub", ["flat", "middle"], ["centered"]),
        helper.make_node("Mul", ["centered", "scale"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["feature"], to=TensorProto.FLOAT16),
    ]
    constants = {"middle": np.float32([127.5]), "scale": np.float32([scale / 128])}
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIZE, SIZE, 3])
    feature = helper.make_tensor_value_info("feature", TensorProto.FLOAT16, ["n", DIM])
    folder.mkdir(parents=True, exist_ok=True)
    digest = _save(folder / FILE_NAME, nodes, [pixels], [feature], constants)
    spec = Spec(f"tiny{scale:g}", digest, "quarters", DIM, SIZE, (127.5,) * 3, (128.0,) * 3, "squash")
    return ExportedBackbone(folder, spec)


def write_hasher(folder: Path, exported: ExportedBackbone, seed: int = 0, constant: bool = False) -> Hasher:
    """A hasher of random hyperplanes; the two domains have thresholds of their own. `constant`: all codes equal."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(DIM, N_BITS)).astype(np.float32) * (0 if constant else 1)
    constants = {"weights": weights, "thresholds": rng.normal(scale=0.3, size=(2, N_BITS)).astype(np.float32)}
    nodes = [
        helper.make_node("Cast", ["feature"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weights"], ["projected"]),
        helper.make_node("Gather", ["thresholds", "domain"], ["threshold"], axis=0),
        helper.make_node("Add", ["projected", "threshold"], ["relaxed"]),
    ]
    inputs = [
        helper.make_tensor_value_info("feature", TensorProto.FLOAT16, ["n", DIM]),
        helper.make_tensor_value_info("domain", TensorProto.INT64, ["n"]),
    ]
    relaxed = helper.make_tensor_value_info("relaxed", TensorProto.FLOAT, ["n", N_BITS])
    folder.parent.mkdir(parents=True, exist_ok=True)
    head = folder.parent / "head.onnx"
    _save(head, nodes, inputs, [relaxed], constants)
    written = Hasher.write(
        folder,
        exported=exported,
        head_path=head,
        method="tiny",
        settings={},
        n_bits=N_BITS,
        seed=seed,
        threads=1,
        centering="none",
    )
    head.unlink()
    return written


def adapt(
    library: Library,
    exported: ExportedBackbone,
    roots: Sequence[tuple[Path, Domain]],
    *,
    seed: int = 0,
    constant: bool = False,
    staged: bool = False,
    progress: Progress | None = None,
) -> tuple[Generation, carrying.Filled]:
    """What training does with a library: extract, write a hasher, fill its gallery, publish."""
    progress = progress or Silent()
    with library.writing():
        given: list[carrying.Given] = []
        for root, domain in roots:
            files = [item for item in walk(bytes(root)) if isinstance(item, PhotoFile)]
            read = extract(files, exported, library, workers=1)
            for file, digest, row in zip(files, read.digests, read.rows, strict=True):
                if digest is not None and row >= 0:
                    label = file.path.split(b"/")[0].decode() if domain == "src" else None
                    given.append(carrying.Given(file, domain, label, digest, int(row)))
        with library.new_generation() as building:
            write_hasher(building.hasher_folder, exported, seed, constant)
            filled = carrying.fill(
                library,
                building.folder,
                exported,
                given,
                roots=[(bytes(root), domain) for root, domain in roots],
                old=None if staged else library.current(),
                workers=1,
                progress=progress,
            )
            return library.publish(building, "staged" if staged else "complete"), filled


def held(generation: Generation) -> dict[str, tuple[str | None, str]]:
    """Every photo of a generation's gallery by absolute path: label and domain."""
    with generation.gallery() as gallery:
        roots = {root.id: root.path for root in gallery.roots()}
        return {
            f"{roots[record.root].decode()}/{record.path.decode()}": (record.label, record.domain)
            for _, record in gallery.scan()
        }


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> str:
    """Write a graph; the SHA-256 of its file."""
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
