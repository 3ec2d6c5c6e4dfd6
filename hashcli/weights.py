"""Weights files: found in the caches that torch and Hugging Face keep, else downloaded once, read without pickle.

A download is one attempt with a short timeout, and none at all with HASHCLI_OFFLINE=1 or HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle  # for the name of its error; nothing is unpickled here
import shutil
import struct
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hashcli.errors import MachineError, UsageError
from hashcli.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT_SECONDS = 10
OFFLINE_HINT = "`--backbone efficientnet_lite0` needs no download"
_CHUNK = 1 << 20
# what torch's restricted unpickler raises for files that are none of its own, as found by feeding it some
_BROKEN = (
    pickle.UnpicklingError, struct.error, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError,
    AssertionError,
)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """Where published weights are: a Hugging Face repository with the names to try in it, or a URL.

    sha256_prefix   first hex digits of the file's SHA-256, where the publisher says them
    """

    what: str
    repository: str = ""
    revision: str | None = None
    names: tuple[str, ...] = ()
    url: str = ""
    sha256_prefix: str = ""


def find(wanted: Wanted, progress: Progress) -> Path:
    """The weights file on this disk, after a download if need be.

    Raises MachineError that names what was looked for and where, when it is neither here nor to be had.
    """
    here = _hub_file(wanted) if wanted.repository else _url_file(wanted)
    if here is not None:
        return here
    offline = [name for name in ("HASHCLI_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(name, "0") not in ("", "0")]
    source = f"{wanted.names[0]} of huggingface.co/{wanted.repository}" if wanted.repository else wanted.url
    folder = _hub_cache() if wanted.repository else _torch_cache()
    if offline:
        raise MachineError(
            f"the weights of {wanted.what} are not on this machine: looked in {folder} for {source}, "
            f"and {offline[0]} forbids downloads",
            OFFLINE_HINT,
        )
    progress.say(f"downloading {source}")
    try:
        return _from_hub(wanted) if wanted.repository else _download(wanted, progress)
    except OSError as error:  # includes URLError, timeouts and what huggingface_hub raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise MachineError(
            f"the weights of {wanted.what} are not on this machine and cannot be downloaded: looked in {folder} "
            f"for {source} ({reason[0][:200]})",
            OFFLINE_HINT,
        ) from error


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name, without a wrapping `state_dict` or `module.` prefix.

    Raises UsageError for a file that holds anything but tensors: nothing in it is ever executed.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                content: Any = load_file(path)
            except SafetensorError as error:
                raise UsageError(f"{path} is not a safetensors file: {error}") from None
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        reason = (str(error).splitlines() or ["empty"])[0][:200]
        raise UsageError(
            f"{path} is not a file of weights alone: {reason}", "save the state_dict, best as .safetensors"
        ) from None
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise UsageError(f"{path} does not hold named tensors", "save the state_dict, best as .safetensors")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    state: dict[str, Tensor] = content
    return state


def metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says of itself; nothing for other files. Raises UsageError."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise UsageError(f"{path} is not a safetensors file: {error}") from None


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _hub_file(wanted: Wanted) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in wanted.names:
        found = try_to_load_from_cache(wanted.repository, name, cache_dir=_hub_cache(), revision=wanted.revision)
        if isinstance(found, str):
            return Path(found)
    return None


def _from_hub(wanted: Wanted) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    # huggingface_hub itself tries a dead network again and again, for most of a minute
    with contextlib.suppress(urllib.error.HTTPError):  # any answer will do
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=TIMEOUT_SECONDS)
    for name in wanted.names[:-1]:
        try:
            return Path(_hub_download(hf_hub_download, wanted, name))
        except EntryNotFoundError:
            continue  # the repository is there, this form of the weights is not
    return Path(_hub_download(hf_hub_download, wanted, wanted.names[-1]))


def _hub_download(download: Any, wanted: Wanted, name: str) -> str:
    from hashcli.onnx_export import quiet

    with quiet():
        path: str = download(
            wanted.repository, name, revision=wanted.revision, cache_dir=_hub_cache(), etag_timeout=TIMEOUT_SECONDS
        )
    return path


def _torch_cache() -> Path:
    import torch

    return Path(torch.hub.get_dir(), "checkpoints")


def _url_file(wanted: Wanted) -> Path | None:
    path = _torch_cache() / wanted.url.rpartition("/")[2]
    return path if path.is_file() else None


def _download(wanted: Wanted, progress: Progress) -> Path:
    folder = _torch_cache()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / wanted.url.rpartition("/")[2]
    handle, fresh = tempfile.mkstemp(prefix=".new-", dir=folder)
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(wanted.url, timeout=TIMEOUT_SECONDS) as answer:
            length = answer.headers.get("Content-Length")
            with progress.task(f"downloading {path.name}", int(length) if length else None) as task:
                while block := answer.read(_CHUNK):
                    out.write(block)
                    digest.update(block)
                    task.advance(len(block))
        if not digest.hexdigest().startswith(wanted.sha256_prefix):
            raise OSError(f"what came is not the published file: its SHA-256 is {digest.hexdigest()}")
        shutil.move(fresh, path)
    finally:
        Path(fresh).unlink(missing_ok=True)
    return path
