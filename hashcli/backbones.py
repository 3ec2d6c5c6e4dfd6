"""Backbones by name, exported to ONNX once per machine and found again without torch.

A name is one of
    efficientnet_lite0                     the default; its weights are installed with hashcli
    torchvision:NAME                       torchvision:resnet34, torchvision:vgg19, torchvision:vit_b_16, ...
    open_clip:NAME/WEIGHTS                 open_clip:ViT-B-32/laion2b_s34b_b79k (the image tower)
    timm:NAME                              timm:convnext_tiny.fb_in22k, ...
    file:PATH  or  file:PATH#ARCHITECTURE  weights of your own (.safetensors, or .pth with tensors only); the
        architecture is torchvision:NAME, open_clip:NAME or timm:NAME, given after the last # or in the
        safetensors metadata as "architecture"
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hashcli.errors import MachineError, UsageError
from hashcli.photos import DECODE_RULE, Fit
from hashcli.progress import Progress

DEFAULT = "efficientnet_lite0"
FAMILIES = ("torchvision", "open_clip", "timm")
TUNED = "fine-tuned"  # TUNED:NAME is what became of the backbone NAME in one hasher; there is no other way to it
FILE_NAME = "backbone.onnx"
# benchmarks/fit.py, drawings before photos of six shapes: mAP of raw features 0.130 cropped, 0.108 squashed with the
# drawing in the middle; 0.117 and 0.106 with it anywhere, so that cropping cuts some off
FIT: Fit = "crop"
_RECORD, _FORMAT, _VERSION = "backbone.json", "hashcli-backbone", 1


@dataclass(frozen=True)
class Spec:
    """What a backbone is and what it is given: all that decides its features, and who made them.

    digest  SHA-256 of backbone.onnx, which holds architecture, weights, mean and std
    layer   where the feature is taken
    dim     d, the width of the feature;  size: side of the square photo in pixels;  fit: how photos become square
    mean, std   of red, green, blue, in pixel values 0..255
    """

    name: str
    digest: str
    layer: str
    dim: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit
    decode_rule: str = DECODE_RULE

    @property
    def key(self) -> str:
        """16 hex digits: features with the same key may be mixed."""
        decisive = [self.digest, self.size, self.fit, self.decode_rule]
        return hashlib.blake2b(json.dumps(decisive).encode(), digest_size=8).hexdigest()

    def record(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Any) -> Spec:
        """The inverse of `record`. Raises ValueError for anything else."""
        if not isinstance(record, dict) or set(record) != {f.name for f in dataclasses.fields(cls)}:
            raise ValueError("not the fields of a backbone")
        texts, numbers = ("name", "digest", "layer", "decode_rule"), ("dim", "size")
        if not all(type(record[k]) is str for k in texts) or record["fit"] not in ("squash", "crop"):
            raise ValueError("a field of the backbone is no text")
        if not all(type(record[k]) is int and 0 < record[k] <= 1 << 20 for k in numbers):
            raise ValueError("a size of the backbone is out of range")
        for field in ("mean", "std"):
            triple = record[field]
            if not (isinstance(triple, (list, tuple)) and len(triple) == 3 and all(type(v) is float for v in triple)):
                raise ValueError(f"{field} is not three numbers")
        if not re.fullmatch("[0-9a-f]{64}", record["digest"]):
            raise ValueError("the digest is no SHA-256")
        return cls(**{**record, "mean": tuple(record["mean"]), "std": tuple(record["std"])})


@dataclass(frozen=True)
class ExportedBackbone:
    """A folder with backbone.onnx, and what it is."""

    folder: Path
    spec: Spec

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return self.folder / FILE_NAME


def cache_folder() -> Path:
    """Where exported backbones are kept: HASHCLI_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("HASHCLI_CACHE"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("hashcli"))


def kept_names() -> list[str]:
    """Names of the backbones that were exported on this machine, for completion; damaged ones are left out."""
    names = set()
    for record in sorted(cache_folder().glob(f"backbones/*/{_RECORD}")):
        try:
            names.add(str(json.loads(record.read_text("utf-8"))["spec"]["name"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(names)


def check_name(name: str) -> str:
    """The name in the form it is recorded in; says nothing of weights yet.

    Raises UsageError for a name of no family, with the nearest one.
    """
    family, colon, rest = name.partition(":")
    if name == DEFAULT or (family in ("torchvision", "timm") and rest):
        return name
    if family == "open_clip" and rest:
        if "/" not in rest:
            raise UsageError(f"{name!r} does not say which weights", "write open_clip:ViT-B-32/laion2b_s34b_b79k")
        return name
    if family == "file" and rest:
        path, architecture = split_file(rest)
        if not path.is_file():
            raise UsageError(f"--backbone {name}: there is no file {path}")
        return f"file:{path.absolute()}" + (f"#{architecture}" if architecture else "")
    near = difflib.get_close_matches(family, (DEFAULT, *FAMILIES, "file"), n=1)
    if near:
        suggested = near[0] + (f":{rest or 'NAME'}" if near[0] != DEFAULT else "")
        hint = f"did you mean {suggested}?"
    elif colon:
        hint = f"known families: {', '.join(FAMILIES)}, file"
    else:
        hint = f"write torchvision:{name} or timm:{name}, or leave --backbone out for {DEFAULT}"
    raise UsageError(f"no backbone is called {name!r}", hint)


def split_file(rest: str) -> tuple[Path, str | None]:
    """`PATH#ARCHITECTURE` -> both parts; a # that no family follows belongs to the path."""
    path, hash_, architecture = rest.rpartition("#")
    if hash_ and architecture.partition(":")[0] in FAMILIES:
        return Path(path).expanduser(), architecture
    return Path(rest).expanduser(), None


def exported(name: str, progress: Progress, fit: Fit | None = None) -> ExportedBackbone:
    """The backbone of that name as ONNX; made with torch at its first use on this machine and kept.

    Made anew when a weights file it came from has changed. Raises UsageError for an unknown name, MachineError
    when weights are absent or the cache folder cannot be written.
    """
    name, fit = check_name(name), fit or FIT
    folder = cache_folder() / "backbones" / _folder_name(name, fit)
    found = _kept(folder)
    if found is not None:
        return found
    from hashcli.architectures import build

    progress.say(f"preparing the backbone {name} (once on this machine)")
    backbone = build(name, progress)
    return export(backbone, name, fit, folder)


def export(backbone: Any, name: str, fit: Fit, folder: Path) -> ExportedBackbone:
    """Write `backbone` (an `architectures.Backbone`) to `folder`, in place of what was there, all or nothing.

    Raises MachineError when it does not export, differs from torch, or `folder` cannot be written.
    """
    import tempfile

    from hashcli.onnx_export import export_backbone

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    except OSError as error:
        raise MachineError(
            f"cannot write to the cache folder {folder.parent}: {error}", "set HASHCLI_CACHE to a folder you can write"
        ) from error
    try:
        dim = export_backbone(backbone.module, backbone.mean, backbone.std, backbone.size, fresh / FILE_NAME)
        digest = hashlib.sha256((fresh / FILE_NAME).read_bytes()).hexdigest()
        spec = Spec(name, digest, backbone.layer, dim, backbone.size, backbone.mean, backbone.std, fit)
        sources = [[str(path), *_state(path)] for path in backbone.sources]
        record = {"format": _FORMAT, "version": _VERSION, "spec": spec.record(), "sources": sources}
        (fresh / _RECORD).write_text(json.dumps(record, indent=1))
        _put(fresh, folder)
    except OSError as error:
        raise MachineError(f"cannot write {folder}: {error}", "free some space, or set HASHCLI_CACHE") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return ExportedBackbone(folder, spec)


def _put(fresh: Path, folder: Path) -> None:
    """Rename `fresh` to `folder`; another process may be doing the same."""
    import tempfile

    for _ in range(100):
        try:
            os.rename(fresh, folder)
            return
        except OSError:
            if not folder.exists():
                raise
        old = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
        try:
            os.rename(folder, old)
        except FileNotFoundError:
            pass  # the other process has just moved it
        finally:
            shutil.rmtree(old, ignore_errors=True)
    raise FileExistsError(f"{folder} is written over and over by other processes")


def _kept(folder: Path) -> ExportedBackbone | None:
    """What an earlier export left, unless it is damaged or one of its sources has changed since."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        if record["format"] != _FORMAT or record["version"] != _VERSION:
            return None
        spec = dataclasses.replace(Spec.from_record(record["spec"]), decode_rule=DECODE_RULE)
        for path, *state in record["sources"]:
            # a source that is gone contradicts nothing: the export is all that is needed
            if os.path.exists(path) and _state(Path(path)) != state:
                return None
        if hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest() != spec.digest:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ExportedBackbone(folder, spec)


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _folder_name(name: str, fit: Fit) -> str:
    shown = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[-60:].strip(".-")
    return f"{shown}-{hashlib.blake2b(json.dumps([name, fit]).encode(), digest_size=6).hexdigest()}"
