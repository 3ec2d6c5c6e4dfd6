"""open_clip's models with the weights they are known for, and their text towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hashcli import weights
from hashcli.bpe import Tokenizer
from hashcli.errors import MachineError
from hashcli.onnx_export import quiet
from hashcli.progress import Progress
from hashcli.refusals import misfit, unknown
from hashcli.torchvision_remedy import import_torchvision
from hashcli.weights import Wanted


def load(name: str, path: Path | None, progress: Progress) -> tuple[Any, dict[str, Any], Path]:
    """The whole model NAME/WEIGHTS (with `path`, NAME alone), what was published with the weights, and their file."""
    import_torchvision()
    import open_clip  # type: ignore[import-untyped]
    from open_clip.factory import load_checkpoint  # type: ignore[import-untyped]

    name, _, tag = name.partition("/")
    known = open_clip.list_models()
    if name not in known:
        raise unknown("open_clip", name, known)
    config = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    if tag and not config:
        raise unknown(f"open_clip:{name}/", tag, open_clip.list_pretrained_tags_by_model(name))
    if path is None:
        path = weights.find(_wanted(f"open_clip:{name}/{tag}", config), progress)
    weights.read(path)  # refuses what is more than tensors, in our words
    try:
        with quiet():
            model: Any = open_clip.create_model(
                name, pretrained_text=False, load_weights=False, force_quick_gelu=bool(config.get("quick_gelu"))
            )
            load_checkpoint(model, str(path), strict=True, weights_only=True)
    except (ImportError, OSError) as error:  # towers that other libraries build, from files of their own
        raise MachineError(f"open_clip:{name} needs more than its weights: {error}", weights.OFFLINE_HINT) from error
    except (RuntimeError, KeyError, AttributeError) as error:
        raise misfit(f"open_clip:{name}", path, str(error)) from None
    return model, config, path


def _wanted(what: str, config: dict[str, Any]) -> Wanted:
    if config.get("hf_hub"):
        repository, _, file = config["hf_hub"].rpartition("/")
        stem = (file or "open_clip_pytorch_model.bin").rpartition(".")[0]
        safe = "open_clip_model.safetensors" if not file else f"{stem}.safetensors"
        return Wanted(what, repository, None, tuple(dict.fromkeys((safe, file or "open_clip_pytorch_model.bin"))))
    return Wanted(what, url=config["url"])


def text_tower(name: str, path: Path | None, progress: Progress) -> nn.Module:
    """From tokens int64 (n, context) to embeddings (n, d), of the model named as in `load`."""
    return _Text(load(name, path, progress)[0])


def tokenizer(name: str) -> Tokenizer | None:
    """What the model NAME or NAME/WEIGHTS reads texts with, where that is CLIP's own tokenizer."""
    import_torchvision()
    import open_clip
    from open_clip import tokenizer as theirs

    name = name.partition("/")[0]
    told = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    if told.get("hf_tokenizer_name") or told.get("hf_model_name"):
        return None
    plain = open_clip.get_tokenizer(name)
    usual = type(plain) is theirs.SimpleTokenizer and plain.clean_fn is theirs.get_clean_fn("lower")
    if not usual or plain.reduction_fn or told.get("vocab_size", plain.vocab_size) < plain.vocab_size:
        return None
    return Tokenizer(tuple(plain.bpe_ranks), plain.context_length)


class _Text(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        embeddings: Tensor = self.model.encode_text(tokens)
        return embeddings
