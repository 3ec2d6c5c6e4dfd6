"""What an ONNX file must be before ONNX Runtime may see it, told from its bytes alone.

A library or hasher may come from a stranger. A file is refused unless it is one plain graph of operators that the
supported backbones and heads use, with all parameters inside the file and the inputs and outputs that were recorded.
The protobuf wire format is walked here, because importing `onnx` would cost a query more than its search takes, and
because what is not understood can then be refused instead of ignored.
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hashcli.errors import DamagedError

MAX_BYTES = 2 << 30  # protobuf's own limit

_OPERATORS = (
    "Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv Cos Div "
    "Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool "
    "GlobalMaxPool Greater GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization "
    "LeakyRelu Less Log LogSoftmax MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal "
    "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Round ScatterND Selu Shape Sigmoid Sign "
    "Sin Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where"
)
OPERATORS = frozenset(_OPERATORS.split())

UINT8, INT64, FLOAT16, FLOAT = 2, 7, 10, 1
_TYPES = {FLOAT: 4, UINT8: 1, 3: 1, 6: 4, INT64: 8, 9: 1, FLOAT16: 2, 11: 8}  # number -> bytes of one element

# the fields of each message that a plain graph has; any other is refused
_MODEL = frozenset([1, 2, 3, 4, 5, 6, 7, 8, 14])
_GRAPH = frozenset([1, 2, 5, 10, 11, 12, 13, 16])
_NODE = frozenset([1, 2, 3, 4, 5, 6, 7, 9])
_ATTRIBUTE = frozenset([1, 2, 3, 4, 5, 7, 8, 9, 13, 20])
_TENSOR = frozenset([1, 2, 4, 5, 7, 8, 9, 10, 12, 16])
_DEFAULT_DOMAIN = (b"", b"ai.onnx")

Field = tuple[int, int | memoryview]


@dataclass(frozen=True)
class Port:
    """An input or output: its name, element type (a number of ONNX) and shape; None is the number of rows."""

    name: str
    dtype: int
    shape: tuple[int | None, ...]


Ports = tuple[list[Port], list[Port]]  # inputs, outputs


def backbone_ports(size: int, dim: int) -> Ports:
    """Inputs and outputs of backbone.onnx: pixels uint8 (n, size, size, 3) -> feature float16 (n, dim)."""
    return [Port("pixels", UINT8, (None, size, size, 3))], [Port("feature", FLOAT16, (None, dim))]


def head_ports(dim: int, n_bits: int) -> Ports:
    """Inputs and outputs of head.onnx: feature float16 (n, dim), domain int64 (n,) -> relaxed float32 (n, n_bits)."""
    inputs = [Port("feature", FLOAT16, (None, dim)), Port("domain", INT64, (None,))]
    return inputs, [Port("relaxed", FLOAT, (None, n_bits))]


def tower_ports(context: int, dim: int) -> Ports:
    """Inputs and outputs of tower.onnx: tokens int64 (n, context) -> feature float32 (n, dim)."""
    return [Port("tokens", INT64, (None, context))], [Port("feature", FLOAT, (None, dim))]


def check(data: bytes, wanted: Ports, what: str) -> None:
    """Refuse `data` unless it is a plain graph with exactly these inputs and outputs.

    Raises DamagedError that names `what` (the file) and the reason.
    """
    found = read(data, what)
    for kind, have, want in zip(("inputs", "outputs"), found, wanted, strict=True):
        if sorted(have, key=lambda p: p.name) != sorted(want, key=lambda p: p.name):
            raise DamagedError(f"{what} has the {kind} {_described(have)}, expected are {_described(want)}")


def read(data: bytes, what: str) -> Ports:
    """The inputs and outputs of a plain graph. Raises DamagedError, as `check`, for anything else."""
    if len(data) > MAX_BYTES:
        raise DamagedError(f"{what} is larger than an ONNX file may be ({len(data)} bytes)")
    try:
        return _model(memoryview(data))
    except _Refused as refused:
        raise DamagedError(f"{what} is not an ONNX graph that hashcli writes: {refused}") from None


class _Refused(Exception):
    pass


def _model(data: memoryview) -> Ports:
    graph: memoryview | None = None
    for number, value in _fields(data, _MODEL, "model"):
        if number == 7:
            if graph is not None:
                raise _Refused("it has two graphs")
            graph = _bytes(value)
        elif number == 8:
            for part, domain in _fields(_bytes(value), frozenset([1, 2]), "operator set"):
                if part == 1 and bytes(_bytes(domain)) not in _DEFAULT_DOMAIN:
                    raise _Refused(f"it uses the operator set {_shown(domain)}")
    if graph is None:
        raise _Refused("it has no graph")
    found: dict[int, list[Port]] = {11: [], 12: []}
    for number, value in _fields(graph, _GRAPH, "graph"):
        if number == 1:
            _node(_bytes(value))
        elif number == 5:
            _tensor(_bytes(value))
        elif number in found:
            found[number].append(_port(_bytes(value)))
    return found[11], found[12]


def _node(data: memoryview) -> None:
    kind = b""
    for number, value in _fields(data, _NODE, "node"):
        if number == 4:
            kind = bytes(_bytes(value))
            if kind.decode("latin-1") not in OPERATORS:
                raise _Refused(f"the operator {_shown(kind)} is not allowed")
        elif number == 7 and bytes(_bytes(value)) not in _DEFAULT_DOMAIN:
            raise _Refused(f"a node of the foreign domain {_shown(value)}")
        elif number == 5:
            for part, content in _fields(_bytes(value), _ATTRIBUTE, "attribute"):
                if part == 5:
                    _tensor(_bytes(content))
    if not kind:
        raise _Refused("a node without an operator")


def _tensor(data: memoryview) -> None:
    """Refuse a tensor that would be larger in memory than its bytes here account for."""
    dims: list[int] = []
    dtype, raw = 0, None
    for number, value in _fields(data, _TENSOR, "tensor"):
        if number == 1:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif number == 2:
            dtype = _int(value)
        elif number == 9:
            raw = _bytes(value)
    if dtype not in _TYPES:
        raise _Refused(f"a tensor of element type {dtype}")
    count = 1
    for dim in dims:
        count *= dim
    if (raw is not None and len(raw) != count * _TYPES[dtype]) or count > len(data):
        raise _Refused(f"a tensor of shape {dims} in {len(data)} bytes")


def _port(data: memoryview) -> Port:
    name, dtype, shape = "", 0, None
    for number, value in _fields(data, frozenset([1, 2, 3, 4]), "port"):
        if number == 1:
            name = bytes(_bytes(value)).decode("utf-8", "replace")
        elif number == 2:
            for kind, tensor in _fields(_bytes(value), frozenset([1, 6]), "type"):
                if kind != 1:
                    continue
                for part, content in _fields(_bytes(tensor), frozenset([1, 2]), "tensor type"):
                    if part == 1:
                        dtype = _int(content)
                    else:
                        shape = [_dim(_bytes(dim)) for _, dim in _fields(_bytes(content), frozenset([1]), "shape")]
    if shape is None:
        raise _Refused(f"{name!r} has no shape")
    return Port(name, dtype, tuple(shape))


def _dim(data: memoryview) -> int | None:
    size = None
    for number, value in _fields(data, frozenset([1, 2, 3]), "dimension"):
        if number == 1:
            size = _int(value)
    return size


def _fields(data: memoryview, allowed: frozenset[int], what: str) -> Iterator[Field]:
    """Number and content of each field: an int for a varint, else the bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number not in allowed:
            raise _Refused(f"the {what} has a field {number}, which no plain graph has")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _Refused(f"the {what} has a field of wire type {wire}")
        if length > end - at:
            raise _Refused(f"the {what} is cut short")
        yield number, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Refused("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Refused("a number where a message belongs")
    return value


def _int(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _Refused("a message where a number belongs")
    return value


def _shown(value: int | bytes | memoryview) -> str:
    return repr(value if isinstance(value, int) else bytes(value)[:40])


def _described(ports: list[Port]) -> str:
    shown = [f"{p.name} {['n' if d is None else d for d in p.shape]} of type {p.dtype}" for p in ports]
    return ", ".join(shown) or "none"
