"""torch modules -> ONNX files that hashcli accepts, each compared with torch before it is used."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from hashcli import onnx_check
from hashcli.errors import DamagedError, MachineError
from hashcli.onnx_check import Ports

TOLERANCE = 1e-4
Exporter = Callable[[nn.Module, dict[str, Tensor], str, Path], None]


class FromPixels(nn.Module):
    """A backbone from pixels uint8 (n, s, s, 3) to features float16 (n, d); mean and std in pixel values."""

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.module = module
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(std).view(1, 3, 1, 1))

    def features(self, pixels: Tensor) -> Tensor:
        """Features float32 (n, d), before they are rounded."""
        planes = pixels.permute(0, 3, 1, 2).to(torch.float32)
        features: Tensor = self.module((planes - self.mean) * self.scale)
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        return self.features(pixels).to(torch.float16)


def export_backbone(module: nn.Module, mean: Sequence[float], std: Sequence[float], size: int, path: Path) -> int:
    """Write backbone.onnx: pixels uint8 (n, size, size, 3) -> feature float16 (n, d). Returns d.

    Raises MachineError when the module does not export, gives no (n, d) features, or differs from torch by more
    than 1e-4 of its largest feature before rounding.
    """
    whole = FromPixels(module, mean, std).eval()
    pixels = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = whole.features(pixels)
    if expected.ndim != 2 or not torch.isfinite(expected).all():
        raise MachineError(f"this backbone gives features of shape {tuple(expected.shape)}, not finite (n, d)")
    dim = expected.shape[1]
    # the graph-capturing exporter is slow, but with shapes known the graph loads and runs three times as fast
    export(
        whole, {"pixels": pixels[:2]}, path, onnx_check.backbone_ports(size, dim), (captured, traced), "the backbone"
    )
    before_rounding, rounded = _run_backbone(path, pixels)
    largest = float(expected.abs().max().clamp(min=1))
    difference = float((before_rounding - expected).abs().max())
    if not difference <= TOLERANCE * largest or not torch.equal(rounded, before_rounding.to(torch.float16)):
        raise MachineError(f"ONNX Runtime and torch disagree on this backbone's features by {difference:.2g}")
    return dim


def export_tower(module: nn.Module, tokens: Tensor, path: Path) -> int:
    """Write tower.onnx: tokens int64 (n, context) -> feature float32 (n, d). Returns d.

    module   from tokens to the embeddings of texts;  tokens: of at least two texts, that the graph is tried on

    Raises MachineError when the module does not export, gives no (n, d) features, or differs from torch by more
    than 1e-4 of its largest feature.
    """
    module.eval()
    with torch.inference_mode():
        expected: Tensor = module(tokens)
    if expected.ndim != 2 or not torch.isfinite(expected).all():
        raise MachineError(f"this text tower gives features of shape {tuple(expected.shape)}, not finite (n, d)")
    ports = onnx_check.tower_ports(tokens.shape[1], expected.shape[1])
    export(module, {"tokens": tokens}, path, ports, (captured, traced), "the text tower")
    (found,) = run(path.read_bytes(), {"tokens": tokens})
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * float(expected.abs().max().clamp(min=1)):
        raise MachineError(f"ONNX Runtime and torch disagree on this text tower's features by {difference:.2g}")
    return expected.shape[1]


def export(
    module: nn.Module,
    inputs: dict[str, Tensor],
    path: Path,
    ports: Ports,
    exporters: Sequence[Exporter],
    what: str,
) -> None:
    """Write `module`, called `what`, as a graph with these ports, whose first dimension is the number of rows.

    `inputs` are a batch of at least two rows. The exporters are tried in turn. Raises MachineError with the last
    one's reason.
    """
    reason = ""
    for exporter in exporters:
        try:
            with torch.inference_mode(), quiet():
                exporter(module, inputs, ports[1][0].name, path)
            _strip(path)
            onnx_check.check(path.read_bytes(), ports, path.name)
            return
        # what an exporter cannot express surfaces as nearly anything a module's own code can raise
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError, ImportError) as error:
            reason = f"{type(error).__name__}: {error}"
        except DamagedError as error:
            reason = str(error)
    path.unlink(missing_ok=True)
    raise MachineError(f"{what} cannot be written as ONNX: {reason.strip().splitlines()[0][:300]}")


def captured(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path) -> None:
    """Export through torch.export: static shapes, quick graphs; takes 5 s and more."""
    rows = torch.export.Dim("n")
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        path,
        dynamo=True,
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes=tuple({0: rows} for _ in inputs),
        external_data=False,
        verbose=False,
    )


def traced(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path) -> None:
    """Export through TorchScript: takes under a second, and newer versions of torch may lack it."""
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        path,
        dynamo=False,
        input_names=list(inputs),
        output_names=[output],
        dynamic_axes={name: {0: "n"} for name in (*inputs, output)},
        opset_version=17,
        verbose=False,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no log lines of libraries: what matters of them is checked by running the result."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def run(data: bytes, inputs: dict[str, Tensor]) -> list[Tensor]:
    """All outputs of a graph, by ONNX Runtime on one thread."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(a) for a in session.run(None, {k: v.numpy() for k, v in inputs.items()})]


def _run_backbone(path: Path, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Features (float32, float16): before and after the graph rounds them."""
    import onnx

    model = onnx.load(path)
    last = next(node for node in model.graph.node if "feature" in node.output)
    if last.op_type != "Cast":
        raise MachineError(f"the exported backbone ends in {last.op_type}, not in rounding")
    before = onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None)
    model.graph.output.append(before)
    rounded, features = run(model.SerializeToString(), {"pixels": pixels})
    return features, rounded


def _strip(path: Path) -> None:
    """Take off what exporters note beside the graph: it is long, and names folders of this machine."""
    import onnx

    model = onnx.load(path)
    parts: list[Any] = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]
    for part in (*parts, *model.graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for field in ("value_info", "quantization_annotation"):
        model.graph.ClearField(field)
    path.write_bytes(model.SerializeToString())
