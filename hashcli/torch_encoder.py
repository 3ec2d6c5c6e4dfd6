"""A backbone in torch, for many photos on a GPU: in single precision, and in batches of one size.

One size, because kernels chosen for another size may add in another order.
"""

from __future__ import annotations

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray

from hashcli.architectures import Backbone, build
from hashcli.errors import MachineError
from hashcli.onnx_export import FromPixels
from hashcli.progress import Progress

SMALLEST_BATCH = 8


def loaded(name: str, device: str, batch: int, progress: Progress) -> TorchEncoder:
    """The backbone called `name`, with a batch that the device has memory for: `batch` or less.

    Raises MachineError when its weights are not here, or the device has no memory for it.
    """
    backbone = build(name, progress)
    while batch >= SMALLEST_BATCH:
        encoder = TorchEncoder(backbone, device, batch)
        try:
            encoder.features(np.zeros((1, backbone.size, backbone.size, 3), np.uint8))
            return encoder
        except torch.OutOfMemoryError:
            batch //= 4
    raise MachineError(f"{device} has too little memory for {name}", "use --device cpu")


class TorchEncoder:
    """pixels -> features as backbone.onnx computes them, on a device of torch's."""

    def __init__(self, backbone: Backbone, device: str, batch: int) -> None:
        """Move the network there. `batch` photos are computed at once, however many are given."""
        torch.set_float32_matmul_precision("highest")
        whole = FromPixels(backbone.module, backbone.mean, backbone.std).eval()
        self._network = whole.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device, self.batch = device, batch
        size = backbone.size
        # memory that the GPU fetches from by itself
        self._block = torch.zeros((batch, size, size, 3), dtype=torch.uint8, pin_memory=device == "cuda")

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Pixels (n, s, s, 3) uint8 -> features (n, d) float16."""
        parts = [self._computed(pixels[first : first + self.batch]) for first in range(0, len(pixels), self.batch)]
        return np.concatenate(parts)

    def _computed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        self._block[: len(pixels)] = torch.from_numpy(pixels)
        precise = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), precise:
            found: NDArray[np.float16] = self._network(self._block.to(self._device, non_blocking=True)).cpu().numpy()
        return found[: len(pixels)]
