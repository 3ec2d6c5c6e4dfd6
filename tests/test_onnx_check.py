from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from hashcli import onnx_check
from hashcli.errors import DamagedError

DIM, N_BITS = 4, 16
PORTS = onnx_check.head_ports(DIM, N_BITS)


def model() -> ModelProto:
    """A plain head: the features times a matrix."""
    weight = numpy_helper.from_array(np.ones((DIM, N_BITS), np.float32), "weight")
    nodes = [
        helper.make_node("Cast", ["feature"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["wide", "weight"], ["relaxed"]),
    ]
    inputs = [
        helper.make_tensor_value_info("feature", TensorProto.FLOAT16, ["n", DIM]),
        helper.make_tensor_value_info("domain", TensorProto.INT64, ["n"]),
    ]
    outputs = [helper.make_tensor_value_info("relaxed", TensorProto.FLOAT, ["n", N_BITS])]
    graph = helper.make_graph(nodes, "head", inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def refuse(changed: ModelProto | bytes, reason: str) -> None:
    data = changed if isinstance(changed, bytes) else changed.SerializeToString()
    with pytest.raises(DamagedError, match=reason) as caught:
        onnx_check.check(data, PORTS, "head.onnx")
    assert "head.onnx" in str(caught.value)


def test_a_plain_graph_is_accepted_and_its_ports_are_read():
    data = model().SerializeToString()

    onnx_check.check(data, PORTS, "head.onnx")

    assert onnx_check.read(data, "head.onnx") == PORTS


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan", "MyOwn", "TopK", ""])
def test_an_operator_that_is_not_on_the_list_is_refused(operator):
    changed = model()
    changed.graph.node[0].op_type = operator

    refuse(changed, "is not allowed|without an operator")


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "custom"])
def test_a_foreign_domain_is_refused_on_nodes_and_in_operator_sets(domain):
    node, sets = model(), model()
    node.graph.node[0].domain = domain
    sets.opset_import.append(helper.make_opsetid(domain, 1))

    refuse(node, f"foreign domain b'{domain}'")
    refuse(sets, f"operator set b'{domain}'")


def test_subgraphs_functions_training_and_sparse_parts_are_refused():
    subgraph, subgraphs, function, training, sparse, reference = (model() for _ in range(6))
    subgraph.graph.node[0].attribute.append(helper.make_attribute("body", model().graph))
    subgraphs.graph.node[0].attribute.append(helper.make_attribute("bodies", [model().graph]))
    function.functions.add().name = "f"
    training.training_info.add()
    sparse.graph.sparse_initializer.add().dims.append(3)
    reference.graph.node[0].attribute.append(AttributeProto(name="x", ref_attr_name="y", type=1))

    for changed in (subgraph, subgraphs, function, training, sparse, reference):
        refuse(changed, "has a field")


def test_parameters_outside_the_file_are_refused():
    changed = model()
    tensor = changed.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")

    refuse(changed, "the tensor has a field 1[34]")


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 20, 1 << 20], [DIM, N_BITS + 1], [-1], [DIM * N_BITS, -1, -1]])
def test_a_tensor_larger_than_its_bytes_is_refused(dims):
    changed = model()
    changed.graph.initializer[0].dims[:] = dims

    refuse(changed, "a tensor of shape")


def test_tensors_in_attributes_are_held_to_the_same():
    changed = model()
    value = numpy_helper.from_array(np.ones(3, np.float32))
    value.dims[0] = 1 << 40
    changed.graph.node.append(helper.make_node("Constant", [], ["c"], value=value))

    refuse(changed, "a tensor of shape")


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.INT4, TensorProto.UNDEFINED])
def test_tensors_of_odd_types_are_refused(kind):
    changed = model()
    changed.graph.initializer[0].data_type = kind

    refuse(changed, "element type")


def test_other_ports_than_recorded_are_refused():
    shape, dtype, name, extra, rows = (model() for _ in range(5))
    shape.graph.input[0].type.tensor_type.shape.dim[1].dim_value = DIM + 1
    dtype.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    name.graph.output[0].name = "code"
    extra.graph.output.append(helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["n", DIM]))
    rows.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    refuse(shape, "has the inputs")
    refuse(dtype, "has the outputs")
    refuse(name, "has the outputs")
    refuse(extra, "has the outputs")
    refuse(rows, "has the inputs")


def test_two_graphs_or_none_are_refused():
    data = model().SerializeToString()

    refuse(data + data, "two graphs")
    refuse(b"", "no graph")


def test_a_file_over_the_limit_is_refused_by_its_size(monkeypatch):
    monkeypatch.setattr(onnx_check, "MAX_BYTES", 10)

    refuse(model(), "larger than an ONNX file may be")


DATA = model().SerializeToString()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(0, 255), st.integers(0, len(DATA)))
def test_damage_is_a_refusal_or_harmless_and_never_another_error(at, byte, end):
    damaged = bytearray(DATA)
    damaged[at] = byte
    for data in (bytes(damaged), DATA[:end], DATA[at:]):
        with contextlib.suppress(DamagedError):
            onnx_check.check(data, PORTS, "head.onnx")
