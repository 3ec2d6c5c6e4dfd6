from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import save_file
from torch import nn

from hashcli import architectures, backbones, onnx_export, weights
from hashcli.architectures import Backbone
from hashcli.backbones import ExportedBackbone, Spec
from hashcli.encoder import BackboneSession
from hashcli.errors import MachineError, UsageError
from hashcli.progress import Silent
from hashcli.torchvision_remedy import import_torchvision
from hashcli.weights import Wanted

import_torchvision()


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every cache of the test's own, and no network."""
    import huggingface_hub.constants

    monkeypatch.setenv("HASHCLI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HASHCLI_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    before = torch.random.get_rng_state()
    torch.manual_seed(3)
    yield
    torch.random.set_rng_state(before)


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the fast exporter: the other one takes seconds for the smallest network."""

    def refuses(*_: object) -> None:
        raise RuntimeError("not today")

    monkeypatch.setattr(onnx_export, "captured", refuses)


def randomized(model: nn.Module) -> nn.Module:
    """The model with weights and statistics that no two layers share, in eval mode."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.rand(tensor.shape)).add_(0.01 * torch.rand(tensor.shape))
    return model.eval()


def in_hub_cache(folder: Path, repository: str, name: str) -> Path:
    """Where the Hugging Face cache keeps a file of the main branch."""
    home = folder / "hub" / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (home / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return home / "snapshots" / ("0" * 40) / name


def small_timm(path: Path) -> nn.Module:
    """A random `test_resnet` with 7 classes, saved to `path`."""
    import timm

    model = randomized(timm.create_model("test_resnet", pretrained=False, num_classes=7))
    save_file(model.state_dict(), path)
    return model


def test_default_backbone_computes_what_the_reference_network_does():
    from efficientnet_lite_pytorch import EfficientNet

    backbone = architectures.build(backbones.DEFAULT, Silent())
    reference = EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(torch.load(backbone.sources[0], weights_only=True))
    images = torch.randn(3, 3, 224, 224)

    with torch.no_grad():
        features = backbone.module(images)
        expected = reference.extract_features(images).mean((2, 3))
        logits = reference(images)

    assert features.shape == (3, 1280)
    assert_allclose(features, expected, atol=1e-4)
    assert_allclose(
        nn.functional.linear(features, reference._fc.weight, reference._fc.bias).detach(), logits, atol=1e-4
    )
    assert (backbone.size, backbone.mean, backbone.std) == (224, (127.0,) * 3, (128.0,) * 3)


def test_torchvision_takes_the_classifiers_input_with_weights_from_the_torch_cache(tmp_path):
    from torchvision import models

    model = randomized(models.get_model("shufflenet_v2_x0_5", weights=None))
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth"
    cached.parent.mkdir(parents=True)
    torch.save(model.state_dict(), cached)
    images = torch.randn(2, 3, 224, 224)

    backbone = architectures.build("torchvision:shufflenet_v2_x0_5", Silent())

    with torch.no_grad():
        features = backbone.module(images)
        assert_allclose(model.fc(features), model(images), rtol=1e-4, atol=1e-5)
    assert backbone.sources == (cached,)
    assert_allclose(backbone.mean, (123.675, 116.28, 103.53))
    assert (backbone.size, backbone.layer) == (224, "input of fc")


@pytest.mark.parametrize(("name", "layer"), [("vgg19", "classifier.6"), ("resnet34", "fc"), ("vit_b_16", "heads.head")])
def test_the_layer_left_out_of_a_torchvision_network_is_its_last_linear_one(name, layer, tmp_path):
    from torchvision import models

    with torch.device("meta"):
        model = models.get_model(name, weights=None)

    assert architectures.last_linear(model) == layer


def test_timm_gives_pooled_features_with_weights_from_the_hub_cache(tmp_path):
    import timm

    model = randomized(timm.create_model("test_resnet", pretrained=False))
    cached = in_hub_cache(tmp_path, "timm/test_resnet.r160_in1k", "model.safetensors")
    save_file(model.state_dict(), cached)
    images = torch.randn(2, 3, 160, 160)

    backbone = architectures.build("timm:test_resnet", Silent())

    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        assert_allclose(backbone.module(images), expected, rtol=1e-5)
    assert (backbone.size, backbone.sources) == (160, (cached,))


def test_open_clip_gives_the_image_embedding_with_weights_from_the_hub_cache(tmp_path, monkeypatch):
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-clip.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    published = {"random": {"hf_hub": "someone/tiny/", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", published)
    with onnx_export.quiet():
        model = randomized(open_clip.create_model("tiny-clip"))
    cached = in_hub_cache(tmp_path, "someone/tiny", "open_clip_model.safetensors")
    save_file(model.state_dict(), cached)
    images = torch.randn(2, 3, 32, 32)

    backbone = architectures.build("open_clip:tiny-clip/random", Silent())

    with torch.no_grad():
        assert_allclose(backbone.module(images), model.encode_image(images), rtol=1e-5)
    assert backbone.size == 32
    assert_allclose(backbone.mean, (25.5, 51, 76.5))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_weights_serves_with_any_number_of_classes(suffix, tmp_path):
    model = small_timm(tmp_path / "own.safetensors")
    path = tmp_path / f"own{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}, path)
    images = torch.randn(2, 3, 160, 160)

    backbone = architectures.build(f"file:{path}#timm:test_resnet", Silent())

    with torch.no_grad():
        assert_allclose(model.fc(backbone.module(images)), model(images), rtol=1e-4)
    assert backbone.sources == (path,)


def test_a_safetensors_file_may_name_its_own_architecture(tmp_path):
    model = small_timm(tmp_path / "own.safetensors")
    save_file(model.state_dict(), tmp_path / "own.safetensors", metadata={"architecture": "timm:test_resnet"})

    assert architectures.build(f"file:{tmp_path / 'own.safetensors'}", Silent()).size == 160


def test_a_file_without_architecture_asks_for_it(tmp_path):
    small_timm(tmp_path / "own.safetensors")

    with pytest.raises(UsageError, match="does not say which network") as caught:
        architectures.build(f"file:{tmp_path / 'own.safetensors'}", Silent())
    assert "#torchvision:resnet34" in caught.value.hint


@pytest.mark.parametrize("architecture", ["timm:test_efficientnet", "torchvision:shufflenet_v2_x0_5"])
def test_weights_of_another_network_are_refused(architecture, tmp_path):
    small_timm(tmp_path / "own.safetensors")

    with pytest.raises(UsageError, match="do not fit"):
        architectures.build(f"file:{tmp_path / 'own.safetensors'}#{architecture}", Silent())


def test_a_missing_tensor_is_never_left_random(tmp_path):
    model = small_timm(tmp_path / "own.safetensors")
    state = model.state_dict()
    del state["layer1.0.conv1.weight"]
    save_file(state, tmp_path / "own.safetensors")

    with pytest.raises(UsageError, match=r"do not fit.*layer1\.0\.conv1\.weight"):
        architectures.build(f"file:{tmp_path / 'own.safetensors'}#timm:test_resnet", Silent())


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_is_more_than_tensors_is_refused_and_not_run(tmp_path):
    torch.save({"a": _Bomb(tmp_path / "boom")}, tmp_path / "bad.pth")

    with pytest.raises(UsageError, match="not a file of weights alone"):
        weights.read(tmp_path / "bad.pth")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(("name", "content"), [("a.safetensors", b"junk"), ("a.pth", b"junk"), ("a.pth", b"")])
def test_a_file_that_is_no_weights_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UsageError, match=r"a\.(safetensors|pth)"):
        weights.read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("torchvision:resnet34", "resnet34-b627a593.pth"),
        ("timm:test_resnet", "timm/test_resnet.r160_in1k"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    ],
)
def test_absent_weights_name_what_was_looked_for_where_and_what_works_offline(name, wanted, tmp_path):
    with pytest.raises(MachineError) as caught:
        backbones.exported(name, Silent())

    assert wanted in str(caught.value) and str(tmp_path) in str(caught.value) and name in str(caught.value)
    assert "efficientnet_lite0" in caught.value.hint
    assert not list((tmp_path / "cache").glob("**/*.onnx"))


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    handler = functools.partial(_Files, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_download_is_kept_only_if_it_is_the_published_file(server, tmp_path, monkeypatch):
    monkeypatch.delenv("HASHCLI_OFFLINE")
    (tmp_path / "served" / "a.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()

    with pytest.raises(MachineError, match="not the published file"):
        weights.find(Wanted("x", url=f"{server}/a.pth", sha256_prefix="00000000"), Silent())
    assert not list((tmp_path / "torch" / "hub" / "checkpoints").iterdir())

    found = weights.find(Wanted("x", url=f"{server}/a.pth", sha256_prefix=digest[:8]), Silent())
    assert found.read_bytes() == b"weights"
    (tmp_path / "served" / "a.pth").unlink()
    assert weights.find(Wanted("x", url=f"{server}/a.pth"), Silent()) == found


def test_a_dead_network_is_an_error_at_once(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.delenv("HASHCLI_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")

    for wanted in (Wanted("x", url="http://127.0.0.1:9/a.pth"), Wanted("x", repository="a/b", names=("c",))):
        with pytest.raises(MachineError, match="cannot be downloaded"):
            weights.find(wanted, Silent())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("efficientnet_lite", "did you mean efficientnet_lite0?"),
        ("torchvison:resnet34", "did you mean torchvision:resnet34?"),
        ("resnet34", "torchvision:resnet34"),
        ("keras:vgg", "known families: torchvision, open_clip, timm, file"),
        ("open_clip:ViT-B-32", "laion2b_s34b_b79k"),
        ("file:/nowhere/at/all.pth", None),
        ("timm:", None),
        ("", None),
    ],
)
def test_a_name_of_no_family_is_a_usage_error_that_helps(name, hint):
    with pytest.raises(UsageError) as caught:
        backbones.exported(name, Silent())
    assert hint is None or hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("timm:test_resnett", "timm:test_resnet"),
        ("torchvision:resnet43", "torchvision:resnet34"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79", "open_clip:ViT-B-32/laion2b_s34b_b79k"),
    ],
)
def test_a_network_its_family_does_not_know_is_a_usage_error_with_the_nearest(name, near):
    with pytest.raises(UsageError) as caught:
        architectures.build(name, Silent())
    assert caught.value.hint == f"did you mean {near}?"


def test_a_hash_sign_belongs_to_the_path_unless_a_family_follows(tmp_path):
    odd = tmp_path / "run#3.pth"
    odd.touch()

    assert backbones.split_file(str(odd)) == (odd, None)
    assert backbones.split_file(f"{odd}#timm:x") == (odd, "timm:x")
    assert backbones.check_name(f"file:{odd}") == f"file:{odd}"


class Tiny(nn.Module):
    """Mean color, mixed to 6 features: what it computes can be told by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.mix(images.mean((2, 3)))


def tiny(seed: int, *sources: Path) -> Backbone:
    torch.manual_seed(seed)
    return Backbone(Tiny().eval(), 8, (10.0, 20.0, 30.0), (2.0, 4.0, 5.0), "mix", sources)


@pytest.fixture(scope="module")
def captured_tiny(tmp_path_factory: pytest.TempPathFactory) -> ExportedBackbone:
    """The tiny network through the exporter that backbones really take."""
    return backbones.export(tiny(0), "tiny", "squash", tmp_path_factory.mktemp("captured") / "tiny")


def test_exported_graph_rounds_what_torch_computes_from_raw_pixels(captured_tiny):
    backbone, made = tiny(0), captured_tiny
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)

    features = BackboneSession(made.folder, made.spec, threads=1).features(pixels)

    normalized = (pixels.astype(np.float64) - [10, 20, 30]) / [2, 4, 5]
    mixed = normalized.mean((1, 2)) @ backbone.module.mix.weight.double().detach().numpy().T
    assert_allclose(features, mixed + backbone.module.mix.bias.detach().numpy(), rtol=1e-3, atol=1e-2)
    assert features.dtype == np.float16
    assert (made.spec.dim, made.spec.size) == (6, 8)


def test_export_notes_no_folder_of_this_machine(captured_tiny):
    contents = captured_tiny.path.read_bytes()

    assert str(Path(__file__).parent).encode() not in contents
    assert b"site-packages" not in contents


def test_export_goes_on_with_the_other_exporter_when_one_fails(quick_export, tmp_path):
    assert backbones.export(tiny(0), "tiny", "squash", tmp_path / "tiny").spec.dim == 6


class Unpooled(Tiny):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def test_a_network_without_pooled_features_is_refused(quick_export, tmp_path):
    backbone = Backbone(Unpooled(), 8, (0.0,) * 3, (1.0,) * 3, "mix", ())

    with pytest.raises(MachineError, match=r"shape \(3, 3, 8, 8\)"):
        backbones.export(backbone, "tiny", "squash", tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def own_file(quick_export, tmp_path, monkeypatch) -> Path:
    """A weights file that `build` turns into the tiny network; the number in it decides the weights."""
    path = tmp_path / "own.pth"
    path.write_text("1")
    monkeypatch.setattr(architectures, "build", lambda name, progress: tiny(int(path.read_text()), path))
    return path


def test_an_export_is_found_again_without_building(own_file, monkeypatch):
    name = f"file:{own_file}#timm:tiny"
    first = backbones.exported(name, Silent())
    monkeypatch.delattr(architectures, "build")

    assert backbones.exported(name, Silent()) == first


def test_changed_weights_are_noticed(own_file):
    name = f"file:{own_file}#timm:tiny"
    first = backbones.exported(name, Silent())
    own_file.write_text("22")

    second = backbones.exported(name, Silent())

    assert second.spec.digest != first.spec.digest and second.spec.key != first.spec.key


@pytest.mark.parametrize("damage", ["backbone.onnx", "backbone.json"])
def test_a_damaged_export_is_made_again(own_file, damage):
    name = f"file:{own_file}#timm:tiny"
    first = backbones.exported(name, Silent())
    data = bytearray((first.folder / damage).read_bytes())
    data[len(data) // 2] ^= 1
    (first.folder / damage).write_bytes(data)

    again = backbones.exported(name, Silent())

    assert hashlib.sha256(again.path.read_bytes()).hexdigest() == again.spec.digest == first.spec.digest
    assert [p.name for p in first.folder.parent.iterdir()] == [first.folder.name]


def test_a_cache_folder_that_cannot_be_written_is_named(own_file, tmp_path, monkeypatch):
    (tmp_path / "plain").touch()
    monkeypatch.setenv("HASHCLI_CACHE", str(tmp_path / "plain"))

    with pytest.raises(MachineError, match="plain"):
        backbones.exported(f"file:{own_file}", Silent())


def test_the_key_changes_with_all_that_changes_features():
    spec = Spec("tiny", "0" * 64, "mix", 6, 8, (0.0,) * 3, (1.0,) * 3, "squash", "rule 1")
    changes = [("digest", "1" * 64), ("size", 9), ("fit", "crop"), ("decode_rule", "rule 2")]

    keys = {spec.key, *(Spec.from_record(spec.record() | {k: v}).key for k, v in changes)}

    assert len(keys) == 5
    assert Spec.from_record(json.loads(json.dumps(spec.record() | {"name": "other"}))).key == spec.key


@pytest.mark.parametrize(
    "change", [{"dim": "6"}, {"dim": 0}, {"mean": [1.0]}, {"fit": "pad"}, {"digest": "x"}, {"z": 1}]
)
def test_a_record_of_no_spec_is_refused(change):
    record = Spec("tiny", "0" * 64, "mix", 6, 8, (0.0,) * 3, (1.0,) * 3, "squash").record()

    with pytest.raises(ValueError):
        Spec.from_record(record | change)


def test_photos_go_through_the_backbone_the_same_in_any_batch(own_file):
    made = backbones.exported(f"file:{own_file}", Silent())
    session = BackboneSession(made.folder, made.spec, threads=1)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)

    alone = np.concatenate([session.features(pixels[i : i + 1]) for i in range(9)])

    assert_array_equal(session.features(pixels), alone)
