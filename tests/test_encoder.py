from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from hashcli import backbones, codes, network, onnx_export
from hashcli.architectures import Backbone
from hashcli.encoder import BackboneSession, Encoder, HeadSession
from hashcli.errors import DamagedError
from hashcli.hasher import Hasher
from hashcli.network import InputNorm

SIZE, DIM, N_BITS = 16, 32, 64


class Net(nn.Module):
    """Convolution, pooling, and a linear layer, as real backbones end."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, DIM)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hasher, nn.Module, nn.Module, np.ndarray]:
    """A hasher of random weights, with the torch modules and means it was written from."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    net, head = Net().eval(), network.mlp([DIM, 48], N_BITS).eval()
    means = np.random.default_rng(1).normal(0, 0.1, (2, DIM)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "captured", onnx_export.traced)  # quick, and the graph computes the same
        backbone = Backbone(net, SIZE, (100.0,) * 3, (50.0,) * 3, "last", ())
        exported = backbones.export(backbone, "net", "squash", folder / "net")
    network.export_head(means, head, folder / "head.onnx", DIM, N_BITS)
    hasher = Hasher.write(
        folder / "hasher", exported=exported, head_path=folder / "head.onnx", method="m", settings={}, n_bits=N_BITS,
        seed=0, threads=1, centering="per_domain",
    )  # fmt: skip
    return hasher, net, head, means


@pytest.fixture
def encoder(made) -> Encoder:
    return Encoder(made[0], threads=1)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (64, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def domains() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 2, 64)


def test_features_are_torchs_rounded_to_half_precision(encoder, made, pixels):
    normalized = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 100) / 50
    with torch.no_grad():
        expected = made[1](normalized)

    features = encoder.features(pixels)

    assert features.dtype == np.float16
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=2e-4)


def test_codes_are_torchs_signs(encoder, made, pixels, domains):
    _, _, head, means = made
    features = encoder.features(pixels)
    with torch.no_grad():
        relaxed = head(InputNorm(means)(torch.from_numpy(features), torch.from_numpy(domains))).numpy()
    sure = np.abs(relaxed) > 1e-4

    bits = codes.unpack(encoder.codes(features, domains), N_BITS)

    assert_array_equal(bits[sure], (relaxed >= 0)[sure])
    assert sure.mean() > 0.99


def test_cached_features_give_the_codes_of_fresh_ones(encoder, pixels, domains, tmp_path):
    fresh = encoder.features(pixels)
    fresh.tofile(tmp_path / "cache")
    cached = np.memmap(tmp_path / "cache", np.float16, "r").reshape(64, DIM)

    assert_array_equal(encoder.codes(cached, domains), encoder.codes(fresh, domains))


@pytest.mark.parametrize("batch", [1, 7, 33])
def test_codes_do_not_depend_on_the_batch(encoder, pixels, domains, batch):
    whole = encoder.head.relaxed(encoder.features(pixels), domains)

    parts = []
    for start in range(0, 64, batch):
        part = slice(start, start + batch)
        parts.append(encoder.head.relaxed(encoder.features(pixels[part]), domains[part]))

    assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("threads", [2, 5])
def test_codes_do_not_depend_on_the_number_of_threads(encoder, made, pixels, domains, threads):
    """But for bits whose relaxed value is next to nothing: the order of sums may differ."""
    one = encoder.head.relaxed(encoder.features(pixels), domains)
    several = Encoder(made[0], threads=threads)
    many = several.head.relaxed(several.features(pixels), domains)

    assert ((one >= 0) == (many >= 0))[np.abs(one) >= 1e-4].all()
    assert (np.abs(one) >= 1e-4).mean() > 0.99


def test_a_photos_code_depends_on_its_domain(encoder, pixels):
    features = encoder.features(pixels)

    as_source = encoder.codes(features, np.zeros(64, np.int64))
    as_target = encoder.codes(features, np.ones(64, np.int64))

    assert (as_source != as_target).any()


def test_no_photos_give_no_codes(encoder):
    features = encoder.features(np.empty((0, SIZE, SIZE, 3), np.uint8))

    assert encoder.codes(features, np.empty(0, np.int64)).shape == (0, N_BITS // 8)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((2, SIZE, SIZE + 1, 3), np.uint8), np.zeros((2, SIZE, SIZE, 3), np.float32), np.zeros(3, np.uint8)],
)
def test_pixels_of_another_shape_or_type_are_refused(encoder, pixels):
    with pytest.raises(ValueError, match=r"pixels must be uint8 \(n, 16, 16, 3\)"):
        encoder.features(pixels)


@pytest.mark.parametrize(
    ("features", "domains"),
    [
        (np.zeros((2, DIM), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, DIM + 1), np.float16), np.zeros(2, np.int64)),
        (np.zeros((2, DIM), np.float16), np.zeros(3, np.int64)),
        (np.zeros((2, DIM), np.float16), np.zeros(2, np.int32)),
        (np.zeros((2, DIM), np.float16), np.array([0, 2])),
        (np.zeros((2, DIM), np.float16), np.array([-1, 0])),
    ],
)
def test_features_and_domains_of_another_kind_are_refused(encoder, features, domains):
    with pytest.raises(ValueError, match="must be"):
        encoder.codes(features, domains)


def test_a_flipped_bit_in_the_backbone_is_found_when_it_is_loaded(made, tmp_path):
    hasher = made[0]
    data = bytearray((hasher.backbone_folder / "backbone.onnx").read_bytes())
    data[-100] ^= 1
    (tmp_path / "backbone.onnx").write_bytes(data)

    with pytest.raises(DamagedError, match=r"backbone\.onnx is not the file that was written"):
        BackboneSession(tmp_path, hasher.spec)
    with pytest.raises(DamagedError, match="No such file"):
        BackboneSession(tmp_path / "absent", hasher.spec)


def test_a_head_must_be_a_head(made, tmp_path):
    with pytest.raises(DamagedError, match="has the inputs"):
        HeadSession(made[0].backbone_folder / "backbone.onnx")
    (tmp_path / "head.onnx").write_bytes(b"junk")
    with pytest.raises(DamagedError, match=r"head\.onnx"):
        HeadSession(tmp_path / "head.onnx")


def test_a_graph_that_only_onnx_runtime_refuses_is_damage(made, tmp_path):
    import onnx

    model = onnx.load(made[0].head_path)
    next(node for node in model.graph.node if node.op_type == "Gemm").input[1] = "absent"
    onnx.save(model, tmp_path / "head.onnx")

    with pytest.raises(DamagedError, match="ONNX Runtime refuses"):
        HeadSession(tmp_path / "head.onnx")


def test_encoding_imports_no_torch(made):
    probe = """if True:
        import sys, pathlib, numpy as np
        from hashcli.encoder import Encoder
        from hashcli.hasher import Hasher
        encoder = Encoder(Hasher.open(pathlib.Path(sys.argv[1])), threads=1)
        features = encoder.features(np.zeros((1, 16, 16, 3), np.uint8))
        encoder.codes(features, np.zeros(1, np.int64))
        heavy = {"torch", "onnx", "timm", "open_clip", "torchvision", "rich", "scipy"} & set(sys.modules)
        sys.exit(f"imported {heavy}" if heavy else 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", probe, made[0].folder], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
