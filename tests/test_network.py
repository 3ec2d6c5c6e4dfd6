from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from hashcli import network, onnx_export
from hashcli.errors import MachineError
from hashcli.network import InputNorm

DIM, N_BITS = 24, 16


def run(path, features, domains):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"feature": features, "domain": domains})[0]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def rows(rng) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(1, 2, (64, DIM)).astype(np.float16), rng.integers(0, 2, 64)


def by_hand(feature: np.ndarray, mean: np.ndarray) -> np.ndarray:
    x = feature.astype(np.float64)
    x = x / np.sqrt((x**2).sum()) - mean
    return x / np.sqrt((x**2).sum()) * np.sqrt(len(x))


def test_each_row_is_centered_by_its_own_domain_and_given_length_sqrt_d(rows, rng):
    features, domains = rows
    means = rng.normal(0, 0.1, (2, DIM)).astype(np.float32)

    normalized = InputNorm(means)(torch.from_numpy(features), torch.from_numpy(domains))

    for row, feature, domain in zip(normalized, features, domains, strict=True):
        assert_allclose(row, by_hand(feature, means[domain]), rtol=1e-4, atol=1e-4)
    assert normalized.dtype == torch.float32


def test_mixed_means_lie_between_those_of_the_domains(rows, rng):
    features, _ = rows
    means = rng.normal(0, 0.1, (2, DIM)).astype(np.float32)
    norm, x = InputNorm(means), torch.from_numpy(features)

    assert_array_equal(norm.mixed(x, torch.ones(64)), norm(x, torch.zeros(64, dtype=torch.int64)))
    assert_array_equal(norm.mixed(x, torch.zeros(64)), norm(x, torch.ones(64, dtype=torch.int64)))
    assert_allclose(norm.mixed(x[:1], torch.tensor([0.25]))[0], by_hand(features[0], means.T @ [0.25, 0.75]), rtol=1e-3)


def test_a_feature_of_zeros_or_at_its_mean_stays_finite():
    norm = InputNorm(np.eye(2, DIM, dtype=np.float32))
    features = torch.stack([torch.zeros(DIM), torch.eye(2, DIM)[0]])

    assert torch.isfinite(norm(features, torch.tensor([0, 0]))).all()


def test_means_per_centering(rng):
    source, target = (rng.normal(m, 1, (n, DIM)).astype(np.float16) for m, n in ((1, 9000), (-2, 30)))
    units = [x.astype(np.float64) for x in (source, target)]
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in units]
    each = [u.mean(0) for u in units]

    assert_allclose(network.fit_input_norm(source, target, "per_domain"), each, atol=1e-6)
    assert_allclose(network.fit_input_norm(source, target, "pooled"), [np.concatenate(units).mean(0)] * 2, atol=1e-6)
    assert_array_equal(network.fit_input_norm(source, target, "none"), np.zeros((2, DIM)))
    assert_allclose(network.fit_input_norm(None, target, "per_domain"), [each[1]] * 2, atol=1e-6)
    assert_allclose(network.fit_input_norm(source, None, "per_domain"), [each[0]] * 2, atol=1e-6)
    assert_allclose(network.fit_input_norm(source, target[:0], "per_domain"), [each[0]] * 2, atol=1e-6)


def test_means_of_nothing_or_of_an_unknown_centering_are_refused(rng):
    with pytest.raises(ValueError, match="no features"):
        network.fit_input_norm(None, None, "pooled")
    with pytest.raises(ValueError, match="'centre'"):
        network.fit_input_norm(np.ones((2, DIM), np.float16), None, "centre")
    with pytest.raises(ValueError, match=r"\(24,\)"):
        InputNorm(np.zeros(DIM, np.float32))


def test_the_usual_head_is_drawn_from_the_seed():
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in network.mlp([DIM, 8, 12], N_BITS).parameters()])

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert len(drawn(1)) == DIM * 8 + 8 + 8 * 12 + 12 + 12 * N_BITS + N_BITS


@pytest.fixture
def head() -> nn.Module:
    torch.manual_seed(0)
    return network.mlp([DIM, 32], N_BITS)


def test_exported_head_equals_torch_and_rows_do_not_depend_on_their_batch(head, rows, rng, tmp_path):
    features, domains = rows
    means = rng.normal(0, 0.1, (2, DIM)).astype(np.float32)
    network.export_head(means, head, tmp_path / "head.onnx", DIM, N_BITS)

    whole = run(tmp_path / "head.onnx", features, domains)
    alone = np.concatenate([run(tmp_path / "head.onnx", features[i : i + 1], domains[i : i + 1]) for i in range(7)])

    with torch.no_grad():
        expected = head(InputNorm(means)(torch.from_numpy(features), torch.from_numpy(domains)))
    assert_allclose(whole, expected, atol=1e-4)
    assert_allclose(whole[:7], alone, atol=1e-5)
    assert len(run(tmp_path / "head.onnx", features[:0], domains[:0])) == 0


def test_the_newer_exporter_steps_in_for_the_fast_one(head, rows, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(network, "captured", lambda *args: (tried.append(1), onnx_export.traced(*args)))
    monkeypatch.setattr(network, "traced", lambda *_: [][0])

    network.export_head(np.zeros((2, DIM), np.float32), head, tmp_path / "head.onnx", DIM, N_BITS)

    assert tried == [1] and run(tmp_path / "head.onnx", *rows).shape == (64, N_BITS)


class Sorting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(x, dim=1).values[:, :N_BITS]


class Branching(nn.Module):
    """Takes another path for a batch of one: tracing would record only the other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, N_BITS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if len(x) > 1 else -self.linear(x)


@pytest.fixture
def fast_exporter_only(monkeypatch):
    """The other takes seconds to say the same."""
    monkeypatch.setattr(network, "captured", onnx_export.traced)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Sorting(), r"operator b'\w+' is not allowed"),
        (Branching(), "disagree on Branching"),
        (nn.Linear(DIM, N_BITS + 1), r"gives torch.float32 \(64, 17\)"),
        (nn.GRU(DIM, N_BITS, batch_first=True), "gives tuple"),
    ],
)
def test_a_head_that_cannot_be_saved_is_refused_with_the_reason(fast_exporter_only, bad, reason, tmp_path):
    with pytest.raises(MachineError, match=reason):
        network.export_head(np.zeros((2, DIM), np.float32), bad, tmp_path / "head.onnx", DIM, N_BITS)
    assert not (tmp_path / "head.onnx").exists()


def test_a_trial_export_leaves_the_head_as_it_was(head):
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    head.train()

    network.check_exportable(head, DIM, N_BITS)

    assert head.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


def test_exported_head_holds_nothing_but_the_graph(head, tmp_path):
    network.export_head(np.zeros((2, DIM), np.float32), head, tmp_path / "head.onnx", DIM, N_BITS)

    model = onnx.load(tmp_path / "head.onnx")

    assert not any(part.doc_string or part.metadata_props for part in (model, model.graph, *model.graph.node))
