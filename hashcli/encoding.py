"""Encoding many photos: with ONNX Runtime on the CPU, or with torch on a GPU that computes the same features."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hashcli.decoding import default_workers
from hashcli.encoder import BackboneSession
from hashcli.errors import MachineError
from hashcli.progress import Progress

if TYPE_CHECKING:
    from hashcli.backbones import ExportedBackbone

Pixels = NDArray[np.uint8]
Features = NDArray[np.float16]

CPU_BATCH, GPU_BATCH = 32, 256
WORTH_A_GPU = 500  # photos; below, torch takes longer to start than all cores to encode
COMPARED = 16
# What two computations in single precision may differ by: the last bit of half precision, which the smallest
# difference can turn, and beyond it this share of the largest value
LAST_BIT, TOLERANCE = 2.0**-10, 1e-4
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl")  # Linux, Windows' subsystem for it, Jetson


class Session(Protocol):
    """A backbone for many photos, which is loaded when it is first needed; `batch` photos at once suit it."""

    @property
    def batch(self) -> int:
        """How many photos are best given at once."""

    def features(self, pixels: Pixels) -> Features:
        """Pixels (n, s, s, 3) uint8 -> features (n, d) float16."""


class OnCPU:
    """As many photos side by side as there are cores."""

    batch = CPU_BATCH

    def __init__(self, backbone: ExportedBackbone) -> None:
        self._backbone = backbone

    @cached_property
    def _session(self) -> BackboneSession:
        return BackboneSession(self._backbone.folder, self._backbone.spec, threads=1, at_once=default_workers())

    def features(self, pixels: Pixels) -> Features:
        """Pixels (n, s, s, 3) uint8 -> features (n, d) float16."""
        return self._session.features(pixels)


class OnGPU:
    """Torch on `device`, once it has given ONNX Runtime's features of the first photos; else the CPU.

    A query computes on the CPU, and the same photo must get the same code from both.
    """

    batch = GPU_BATCH

    def __init__(self, backbone: ExportedBackbone, device: str, progress: Progress) -> None:
        self._backbone, self._device, self._progress = backbone, device, progress
        self._chosen: Session | None = None

    def features(self, pixels: Pixels) -> Features:
        """Pixels (n, s, s, 3) uint8 -> features (n, d) float16."""
        if self._chosen is None:
            self._chosen = self._compared(pixels[:COMPARED])
        return self._chosen.features(pixels)

    def _compared(self, pixels: Pixels) -> Session:
        from hashcli.torch_encoder import loaded

        cpu = OnCPU(self._backbone)
        try:
            gpu = loaded(self._backbone.spec.name, self._device, self.batch, self._progress)
        except MachineError as error:  # the weights it was exported from are no longer here
            self._progress.say(f"encoding on the CPU: {error}")
            return cpu
        expected, found = cpu.features(pixels).astype(np.float32), gpu.features(pixels).astype(np.float32)
        difference = np.abs(found - expected)
        if not (difference <= LAST_BIT * np.abs(expected) + TOLERANCE * np.abs(expected).max()).all():
            self._progress.say(
                f"encoding on the CPU: {self._device} gives other features (by up to {difference.max():.2g})"
            )
            return cpu
        self._progress.log("encoding", device=self._device, compared=len(pixels), difference=float(difference.max()))
        return gpu


def bulk_session(backbone: ExportedBackbone, device: str, n_photos: int, progress: Progress) -> Session:
    """What encodes `n_photos` photos on `device`; auto takes a CUDA GPU if there is one and it is worth its start.

    Raises MachineError for a device that torch cannot use here.
    """
    if device == "cpu" or (device == "auto" and not (n_photos >= WORTH_A_GPU and _may_have_gpu())):
        return OnCPU(backbone)
    from hashcli.devices import resolve_device

    resolved = resolve_device(device)
    return OnCPU(backbone) if resolved == "cpu" else OnGPU(backbone, resolved, progress)


def _may_have_gpu() -> bool:
    """Whether asking torch, which takes seconds to start, is worth while."""
    return "torch" in sys.modules or any(os.path.exists(path) for path in _GPU_FILES)
