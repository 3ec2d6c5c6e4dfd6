"""Training the backbone along with the head, on photos of a few pixels and a network of a few weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import nn

from hashcli import (
    architectures,
    backbones,
    finetuning,
    jobs,
    network,
    onnx_export,
    optimization,
    registry,
    settings,
    training,
)  # fmt: skip
from hashcli.architectures import Backbone
from hashcli.data import SourceData, TargetData, TrainingData
from hashcli.encoder import BackboneSession, Encoder
from hashcli.errors import MachineError, UsageError
from hashcli.fitting import normalized
from hashcli.library import Library
from hashcli.method import Run, Task
from hashcli.progress import Silent
from hashcli.records import DOMAINS
from hashcli.training import TrainOptions
from tests import tiny

SIZE = 8
QUICK = {
    "couple": ("epochs=3", "steps_per_epoch=2", "batch_size=6", "hidden=8", "walks=50", "learning_rate=0.01"),
    "metah": ("epochs=2", "steps_per_epoch=2", "batch_size=6", "hidden=8", "discriminator=8"),
    "dsah": ("epochs=2", "steps_per_epoch=2", "batch_size=6", "hidden=8", "rounds=2"),
    "source-only": ("epochs=2", "steps_per_epoch=2", "batch_size=6", "hidden=8"),
}


def network_of(seed: int) -> Backbone:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 12, 3), nn.Flatten())
    return Backbone(layers.eval(), SIZE, (127.0,) * 3, (128.0,) * 3, "the last", ())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[backbones.ExportedBackbone]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "captured", onnx_export.traced)  # the quicker of the two
        yield backbones.export(network_of(0), "tiny", "squash", tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture
def world(tmp_path, monkeypatch, exported) -> SimpleNamespace:
    """Photos of two domains, a library, and `learn`, which is `hashcli adapt` and `hashcli train` in this process."""
    for domain, shift in (("studio", 0), ("phone", 40)):
        for kind in range(2):
            for number in range(9):
                colors = np.random.default_rng([kind, number, shift]).integers(0, 90, 4) + 80 * (
                    np.arange(4) % 2 == kind
                )
                tiny.photo(tmp_path / domain / str(kind) / f"{number}.png", *(colors + shift).tolist())
    monkeypatch.setattr(backbones, "exported", lambda *_: exported)
    monkeypatch.setattr(backbones, "check_name", lambda name: name)
    monkeypatch.setattr(architectures, "build", lambda *_: network_of(0))
    monkeypatch.setattr(onnx_export, "captured", onnx_export.traced)
    monkeypatch.setattr(network, "check_exportable", lambda *_: None)
    tiny.decode_here(monkeypatch)

    def learn(method: str, finetune: str):
        place = Library.at(tmp_path / "library")
        wanted = TrainOptions(method, 16, "tiny", QUICK[method], "cpu", finetune=finetune, hold_out=False, force=True)
        if method == "dsah":
            training.train(place, tmp_path / "phone", wanted, Silent())
        else:
            training.adapt(place, tmp_path / "studio", tmp_path / "phone", wanted, Silent())
        return Library.open(tmp_path / "library").require()

    return SimpleNamespace(learn=learn, folder=tmp_path, exported=exported)


@pytest.mark.parametrize(
    "method", ["couple", *(pytest.param(name, marks=pytest.mark.slow) for name in ("metah", "dsah", "source-only"))]
)
def test_the_hasher_has_a_backbone_of_its_own_that_encodes_all_photos_anew(world, method):
    generation = world.learn(method, "last")
    hasher = generation.hasher

    assert hasher.spec.name == "fine-tuned:tiny"
    assert hasher.spec.key != world.exported.spec.key
    assert hasher.training["finetune"] == "last"
    encoder = Encoder(hasher)
    with generation.gallery() as gallery:
        roots = {root.id: root.path for root in gallery.roots()}
        scanned = list(gallery.scan())
        for slot, record in scanned:
            photo = Image.open(Path(os.fsdecode(roots[record.root] + b"/" + record.path)))
            feature = encoder.features(np.asarray(photo)[None])
            domain = np.array([DOMAINS.index(record.domain)])
            assert (encoder.codes(feature, domain) == gallery.codes(np.array([slot]))).all(), "index and query differ"
        before = BackboneSession(world.exported.folder, world.exported.spec)
        assert not np.array_equal(before.features(np.asarray(photo)[None]), feature)
    with Library.open(world.folder / "library").features(hasher.spec) as cache:
        digests = [record.digest for _, record in scanned if record.domain == "tgt"]
        mean = network.fit_input_norm(None, cache.take(cache.rows(digests)), "per_domain")[1]
    held = [numpy_helper.to_array(constant) for constant in onnx.load(hasher.head_path).graph.initializer]
    assert any(one.shape == (2, 12) and np.allclose(one[1], mean, atol=1e-6) for one in held), "means of old features"


def test_methods_that_cannot_name_those_that_can(world):
    with pytest.raises(UsageError, match="cannot train the backbone") as refusal:
        jobs.checked_method("itq", (), 16, "efficientnet_lite0", "all")
    assert {"couple", "dsah", "metah"} <= set((refusal.value.hint or "").partition(": ")[2].split(", "))


class Stop(Exception):
    pass


def tuned(
    finetune: str = "all", progress: Silent | None = None, checkpoint: Path | None = None
) -> dict[str, np.ndarray]:
    """All weights after a run on photos in memory, without files and exports."""
    rng = np.random.default_rng(0)
    pixels = {
        name: rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8) for name, n in (("source", 20), ("target", 9))
    }
    backbone = network_of(0)
    whole = onnx_export.FromPixels(backbone.module, backbone.mean, backbone.std)
    with torch.no_grad():
        raw = {name: whole(torch.from_numpy(photos)).numpy() for name, photos in pixels.items()}
    means = network.fit_input_norm(raw["source"], raw["target"], "per_domain")
    source, target = (normalized(raw[name], means, domain) for domain, name in enumerate(raw))
    data = TrainingData(SourceData(source, np.resize([0, 1], 20)), TargetData(target), n_classes=2)
    cls = registry.load("couple")
    method = cls(Task(16, 12, 2, 0), settings.parse(cls.Settings, QUICK["couple"], "couple"))

    def photos(wanted):
        for name, rows in wanted:
            yield pixels[name][rows]

    run = Run(0, "cpu", progress or Silent(), checkpoint)
    head = finetuning.Tuning(finetune, backbone, photos, means).minimize(method, data, run)
    return {k: v.numpy() for k, v in (*head.state_dict().items(), *backbone.module.state_dict(prefix="b.").items())}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_a_stopped_run_goes_on_to_the_very_weights_of_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(optimization, "CHECKPOINT_SECONDS", 0.0)
    undisturbed = tuned()
    epoch = optimization.Loop.epoch

    def stopping(self, number, task):
        if number == 2:
            raise Stop
        epoch(self, number, task)

    with monkeypatch.context() as patch:
        patch.setattr(optimization.Loop, "epoch", stopping)
        with pytest.raises(Stop):
            tuned(checkpoint=tmp_path)
    seen: list[int] = []
    monkeypatch.setattr(optimization.Loop, "epoch", lambda self, n, task: (seen.append(n), epoch(self, n, task))[1])

    assert same(tuned(checkpoint=tmp_path), undisturbed)
    assert seen == [2]
    before = network_of(0).module.state_dict(prefix="b.")
    assert not same({k: v.numpy() for k, v in before.items()}, undisturbed)


def test_only_the_last_layers_change_where_only_they_are_trained():
    before = {k: v.numpy() for k, v in network_of(0).module.state_dict(prefix="b.").items()}
    after = tuned("last")

    changed = {name.split(".")[1] for name, value in before.items() if not np.array_equal(value, after[name])}
    assert changed == {"3"}, "the second convolution"


def test_a_device_without_memory_gets_batches_of_half_the_size_and_that_is_said(monkeypatch):
    progress = Silent()
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    sizes: list[int] = []
    most = 3
    features = onnx_export.FromPixels.features

    def scarce(self, pixels):
        if torch.is_grad_enabled():
            sizes.append(len(pixels))
            if len(pixels) > most:
                raise torch.OutOfMemoryError("no memory")
        return features(self, pixels)

    monkeypatch.setattr(onnx_export.FromPixels, "features", scarce)
    tuned(progress=progress)
    assert sizes[0] == 6 and set(sizes[1:]) == {3}
    assert said == ["out of memory on cpu: batches of 3 photos from here on"]
    most = 0
    with pytest.raises(MachineError, match="too little memory"):
        tuned()


def test_last_reaches_the_last_quarter_of_the_layers_and_all_reaches_all():
    layers = nn.Sequential(*(nn.Linear(2, 2) for _ in range(8)))
    assert {id(p) for p in finetuning.unfreeze(layers, "last")} == {id(p) for p in layers[6:].parameters()}
    assert [p.requires_grad for p in layers.parameters()] == [False] * 12 + [True] * 4
    assert len(finetuning.unfreeze(layers, "all")) == 16
    assert len(finetuning.unfreeze(nn.Linear(2, 2), "last")) == 2


def test_varied_photos_are_photos_and_the_draw_decides_how():
    pixels = torch.randint(0, 256, (16, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one, same, other = (finetuning.varied(pixels, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert one.shape == pixels.shape and one.min() >= 0 and one.max() <= 255
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_half_of_the_photos_are_mirrored_and_without_other_changes_they_stay_as_they_were(monkeypatch):
    monkeypatch.setattr(finetuning, "LEAST_CROP", 1.0)
    monkeypatch.setattr(finetuning, "JITTER", 0.0)
    pixels = torch.randint(0, 256, (64, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    changed = finetuning.varied(pixels, np.random.default_rng(0)).round().to(torch.uint8)

    kept = [torch.equal(a, b) for a, b in zip(changed, pixels, strict=True)]
    mirrored = [torch.equal(a, b.flip(1)) for a, b in zip(changed, pixels, strict=True)]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert 16 < sum(kept) < 48
