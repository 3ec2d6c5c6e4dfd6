"""Which device torch computes on."""

from __future__ import annotations

from hashcli.errors import MachineError, UsageError


def resolve_device(name: str) -> str:
    """The device that `auto`, `cpu`, `cuda` or `mps` stands for here; auto takes a CUDA GPU if there is one.

    Raises UsageError for other names, MachineError for a device that this machine lacks.
    """
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if present["cuda"] else "cpu"
    if name not in present:
        raise UsageError(f"there is no device called {name!r}", "--device takes auto, cpu, cuda or mps")
    if not present[name]:
        raise MachineError(f"this machine has no {name} device that torch can use", "use --device cpu")
    return name
