"""Text towers of open_clip's backbones, exported to ONNX beside the backbone, once per machine."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hashcli import weights
from hashcli.backbones import split_file
from hashcli.bpe import Tokenizer
from hashcli.durable import replace_file
from hashcli.errors import LibraryError, MachineError
from hashcli.text_tower import TextTower

if TYPE_CHECKING:
    from torch import nn

    from hashcli.backbones import ExportedBackbone
    from hashcli.progress import Progress

FILE = "tower.onnx"
_RECORD, _FORMAT, _VERSION = "tower.json", "hashcli-tower", 1


def of(backbone: ExportedBackbone, progress: Progress) -> TextTower | None:
    """The text tower of a backbone, made with torch if this machine's cache does not have it yet.

    None where the backbone is not open_clip's, or reads words with another tokenizer than CLIP's. Raises MachineError
    when its weights are gone, it does not export, or the cache folder cannot be written.
    """
    name = backbone.spec.name
    family, _, rest = name.partition(":")
    if family == "file":
        path, architecture = split_file(rest)
        architecture = architecture or (weights.metadata(path).get("architecture") if path.is_file() else None)
        family = (architecture or "").partition(":")[0]
    if family != "open_clip":
        return None
    return _kept(backbone) or _made(backbone, progress)


def _made(backbone: ExportedBackbone, progress: Progress) -> TextTower | None:
    from hashcli import architectures, clip

    _, name, path = architectures.resolved(backbone.spec.name)
    tokenizer = clip.tokenizer(name)
    if tokenizer is None:
        return None
    progress.say(f"preparing the text tower of {backbone.spec.name} (once on this machine)")
    module = clip.text_tower(name, path, progress)
    try:
        return _export(module, tokenizer, backbone)
    except OSError as error:
        raise MachineError(
            f"cannot write {backbone.folder}: {error}", "free some space, or set HASHCLI_CACHE"
        ) from error


def _export(module: nn.Module, tokenizer: Tokenizer, backbone: ExportedBackbone) -> TextTower:
    import tempfile

    import torch

    from hashcli.onnx_export import export_tower

    tokens = torch.from_numpy(tokenizer.tokens(["a photo of a mushroom", "", "two blue shoes on a road"]))
    with tempfile.TemporaryDirectory(prefix=".new-", dir=backbone.folder) as scratch:
        fresh = Path(scratch, FILE)
        dim = export_tower(module, tokens, fresh)
        digest = hashlib.sha256(fresh.read_bytes()).hexdigest()
        os.replace(fresh, backbone.folder / FILE)
    record = {"format": _FORMAT, "version": _VERSION, "backbone": backbone.spec.digest, "digest": digest, "dim": dim}
    replace_file(backbone.folder / _RECORD, json.dumps(record | {"tokenizer": tokenizer.record()}).encode())
    return TextTower(backbone.folder / FILE, digest, dim, tokenizer)


def _kept(backbone: ExportedBackbone) -> TextTower | None:
    """What an earlier export left, unless it is damaged or of another backbone."""
    path = backbone.folder / _RECORD
    try:
        record = json.loads(path.read_bytes())
        if (record["format"], record["version"], record["backbone"]) != (_FORMAT, _VERSION, backbone.spec.digest):
            return None
        tokenizer = Tokenizer.from_record(record["tokenizer"], str(path))
        return TextTower(backbone.folder / FILE, record["digest"], record["dim"], tokenizer)
    except (OSError, ValueError, KeyError, TypeError, LibraryError):
        return None
