"""Encoding many photos: with ONNX Runtime on the CPU, or with torch on a GPU that computes the same features."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hashcli.decoding import default_workers
from hashcli.encoder import BackboneSession
from hashcli.progress import Progress

if TYPE_CHECKING:
    from hashcli.backbones import ExportedBackbone

CPU_BATCH = 32


class Session(Protocol):
    """A backbone for many photos, which is loaded when it is first needed; `batch` photos at once suit it."""

    @property
    def batch(self) -> int:
        """How many photos are best given at once."""

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Pixels (n, s, s, 3) uint8 -> features (n, d) float16."""


class OnCPU:
    """As many photos side by side as there are cores."""

    batch = CPU_BATCH

    def __init__(self, backbone: ExportedBackbone) -> None:
        self._backbone = backbone

    @cached_property
    def _session(self) -> BackboneSession:
        return BackboneSession(self._backbone.folder, self._backbone.spec, threads=1, at_once=default_workers())

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Pixels (n, s, s, 3) uint8 -> features (n, d) float16."""
        return self._session.features(pixels)


def bulk_session(backbone: ExportedBackbone, device: str, n_photos: int, progress: Progress) -> Session:
    """What encodes `n_photos` photos on `device`."""
    return OnCPU(backbone)
