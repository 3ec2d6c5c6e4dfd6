"""Encoding many photos: what a GPU would compute is what ONNX Runtime computes, or it is not used."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hashcli import backbones, codes, encoding, network, onnx_export, torch_encoder
from hashcli.architectures import Backbone
from hashcli.backbones import ExportedBackbone
from hashcli.encoder import HeadSession
from hashcli.encoding import OnCPU, OnGPU, bulk_session
from hashcli.errors import MachineError
from hashcli.progress import Silent
from hashcli.torch_encoder import TorchEncoder
from tests import tiny

SIZE, DIM, N_BITS = 16, 12, 64


class Net(nn.Module):
    """Convolution, normalization, pooling, and a linear layer, as real backbones have them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, DIM),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def net(seed: int) -> Backbone:
    torch.manual_seed(seed)
    return Backbone(Net().eval(), SIZE, (100.0,) * 3, (50.0,) * 3, "last", ())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedBackbone:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "captured", onnx_export.traced)
        return backbones.export(net(0), "net", "squash", tmp_path_factory.mktemp("backbone") / "net")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (70, SIZE, SIZE, 3), dtype=np.uint8)


def on(monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> None:
    """This is what the weights on this machine make."""
    monkeypatch.setattr(torch_encoder, "build", lambda name, progress: backbone)


def test_torch_gives_onnx_runtimes_codes(exported, pixels, tmp_path):
    head = network.mlp([DIM, 48], N_BITS).eval()
    means = np.random.default_rng(1).normal(0, 0.1, (2, DIM)).astype(np.float32)
    network.export_head(means, head, tmp_path / "head.onnx", DIM, N_BITS)
    session, domains = HeadSession(tmp_path / "head.onnx"), np.arange(len(pixels)) % 2

    ours = session.relaxed(TorchEncoder(net(0), "cpu", 32).features(pixels), domains)
    theirs = session.relaxed(OnCPU(exported).features(pixels), domains)

    sure = np.abs(theirs) > 1e-4
    np.testing.assert_array_equal((ours >= 0)[sure], (theirs >= 0)[sure])
    assert sure.mean() > 0.99 and len(np.unique(codes.from_relaxed(theirs), axis=0)) > 1


def test_features_of_torch_do_not_depend_on_how_many_come(pixels):
    encoder = TorchEncoder(net(0), "cpu", 32)
    whole = encoder.features(pixels)
    for size in (1, 5, 64):
        parts = [encoder.features(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.float16 and whole.shape == (len(pixels), DIM)


def test_photos_side_by_side_come_out_in_their_order(exported, pixels, monkeypatch):
    one = OnCPU(exported).features(pixels[:1])
    monkeypatch.setattr(encoding, "default_workers", lambda: 3)
    many = OnCPU(exported).features(pixels)
    np.testing.assert_array_equal(many[0], one[0])
    for row in (1, 35, 69):
        np.testing.assert_array_equal(many[row], OnCPU(exported).features(pixels[row : row + 1])[0])


def test_a_device_is_used_once_it_has_given_the_right_features(exported, pixels, monkeypatch):
    on(monkeypatch, net(0))
    talk = tiny.Heard()
    session = OnGPU(exported, "cpu", talk)
    session.features(pixels[:20])
    assert isinstance(session._chosen, TorchEncoder)
    assert talk.said == [] and dict(talk.events[0][1])["compared"] == encoding.COMPARED


def test_a_device_that_gives_other_features_is_not_used(exported, pixels, monkeypatch):
    on(monkeypatch, net(1))
    talk = tiny.Heard()
    features = OnGPU(exported, "cpu", talk).features(pixels)
    np.testing.assert_array_equal(features, OnCPU(exported).features(pixels))
    assert len(talk.said) == 1 and "other features" in talk.said[0]


def test_without_the_weights_the_cpu_encodes(exported, pixels, monkeypatch):
    def gone(name, progress):
        raise MachineError("the weights are gone")

    monkeypatch.setattr(torch_encoder, "build", gone)
    talk = tiny.Heard()
    features = OnGPU(exported, "cpu", talk).features(pixels)
    np.testing.assert_array_equal(features, OnCPU(exported).features(pixels))
    assert talk.said == ["encoding on the CPU: the weights are gone"]


def test_a_small_device_gets_smaller_batches(pixels, monkeypatch):
    on(monkeypatch, replace(net(0)))
    computed = TorchEncoder._computed

    def cramped(self, some):
        if self.batch > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return computed(self, some)

    monkeypatch.setattr(TorchEncoder, "_computed", cramped)
    encoder = torch_encoder.loaded("net", "cpu", 256, Silent())
    assert encoder.batch == 16 and len(encoder.features(pixels)) == len(pixels)
    monkeypatch.setattr(torch_encoder, "SMALLEST_BATCH", 32)
    with pytest.raises(MachineError, match="too little memory"):
        torch_encoder.loaded("net", "cpu", 256, Silent())


def test_auto_takes_a_gpu_only_for_many_photos(exported, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(bulk_session(exported, "auto", encoding.WORTH_A_GPU, Silent()), OnGPU)
    assert isinstance(bulk_session(exported, "auto", encoding.WORTH_A_GPU - 1, Silent()), OnCPU)
    assert isinstance(bulk_session(exported, "cuda", 1, Silent()), OnGPU)
    assert isinstance(bulk_session(exported, "cpu", 10**6, Silent()), OnCPU)


def test_a_device_that_is_not_there_is_told(exported, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match="no cuda device"):
        bulk_session(exported, "cuda", 1, Silent())
    assert isinstance(bulk_session(exported, "auto", 10**6, Silent()), OnCPU)


def test_where_there_is_no_gpu_torch_is_not_imported_to_find_out(exported):
    probe = """if True:
        import sys
        from hashcli import encoding
        encoding._GPU_FILES = ()
        assert isinstance(encoding.bulk_session(None, "auto", 10**6, None), encoding.OnCPU)
        sys.exit("torch" in sys.modules)
    """
    subprocess.run([sys.executable, "-c", probe], check=True, cwd=Path(__file__).parents[1])
