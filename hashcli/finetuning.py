"""Training a backbone together with the head: photos are read and varied for every step, and features follow.

The backbone stays in eval mode, so that the statistics of its normalization layers are those it was trained with
first: batches here are small, and of two domains. Before each epoch but the first, features and their means are
computed anew for all photos, unvaried, and the method sees those.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hashcli.architectures import Backbone
from hashcli.data import Bank, Batch, DomainBatch, TrainingData
from hashcli.errors import MachineError
from hashcli.network import InputNorm, fit_input_norm
from hashcli.onnx_export import FromPixels
from hashcli.optimization import Loop

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Wanted = Sequence[tuple[str, Ints]]

DOMAINS = ("source", "target")
LAST_SHARE = 0.25
BACKBONE_RATE = 0.1  # of the head's learning rate: it starts from weights that are good already
LEAST_CROP = 0.6
JITTER = 0.3
LOOK_ROWS = 64


@dataclass(frozen=True)
class Tuning:
    """What `method.Run` carries when the backbone is trained too.

    kind      "last": the last quarter of its layers, in the order in which it lists them; "all": all of them
    backbone  whose module is trained in place
    photos    (domain, rows) after (domain, rows) -> their pixels (len(rows), s, s, 3), in that order, read ahead
    means     (2, d) of the features that the training data was made from
    """

    kind: str
    backbone: Backbone
    photos: Callable[[Wanted], Generator[Pixels, None, None]]
    means: Floats

    def minimize(self, method: Any, data: TrainingData, run: Any) -> nn.Module:
        """As `optimization.minimize`, and the backbone along with the head. Raises MachineError."""
        head = _Loop(self, method, data, run).minimize()
        self.backbone.module.cpu()
        return head


def unfreeze(module: nn.Module, kind: str) -> list[nn.Parameter]:
    """Let gradients reach the last layers, or all, and nothing else; the parameters that they reach."""
    owners = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    first = 0 if kind == "all" else len(owners) - max(1, round(LAST_SHARE * len(owners)))
    module.requires_grad_(False)
    for owner in owners[first:]:
        for parameter in owner.parameters(recurse=False):
            parameter.requires_grad_(True)
    return [p for p in module.parameters() if p.requires_grad]


def varied(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Each photo (n, s, s, 3) cropped, mirrored or not, and changed in color, all at random: float32, from 0 to 255."""
    n = len(pixels)

    def drawn(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, n).astype(np.float32)).to(pixels.device)

    side = drawn(LEAST_CROP, 1).sqrt()
    window = torch.zeros((n, 2, 3), device=pixels.device)
    window[:, 0, 0] = torch.where(drawn(-1, 1) < 0, -side, side)
    window[:, 1, 1] = side
    window[:, 0, 2], window[:, 1, 2] = (drawn(-1, 1) * (1 - side) for _ in "xy")
    planes = pixels.permute(0, 3, 1, 2).to(torch.float32)
    grid = F.affine_grid(window, list(planes.shape), align_corners=False)
    planes = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    color, contrast, brightness = (drawn(1 - JITTER, 1 + JITTER).view(n, 1, 1, 1) for _ in range(3))
    gray = planes.mean(1, keepdim=True)
    planes = gray + color * (planes - gray)
    middle = planes.mean((1, 2, 3), keepdim=True)
    planes = brightness * (middle + contrast * (planes - middle))
    return planes.clamp(0, 255).permute(0, 2, 3, 1)


class _Loop(Loop):
    def __init__(self, tuning: Tuning, method: Any, data: TrainingData, run: Any) -> None:
        backbone = tuning.backbone
        self.tuning = tuning
        self.backbone = FromPixels(backbone.module, backbone.mean, backbone.std).eval().to(run.device)
        self.tuned = unfreeze(self.backbone, tuning.kind)
        self.norm = InputNorm(tuning.means).to(run.device)
        self.mixed = run.device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        super().__init__(method, data, run)
        count = sum(p.numel() for p in self.tuned)
        run.progress.log("fine-tuning", layers=tuning.kind, parameters=count, mixed_precision=self.mixed)

    def networks(self) -> dict[str, nn.Module]:
        return {**super().networks(), "backbone": self.backbone}

    def parameters(self) -> list[dict[str, Any]]:
        rate = BACKBONE_RATE * self.method.settings.learning_rate
        return [*super().parameters(), {"params": self.tuned, "lr": rate}]

    def bank(self, epoch: int) -> Bank:
        if epoch > 0:
            self._look_again()
        return super().bank(epoch)

    def _look_again(self) -> None:
        """Features and means of all photos by the backbone as it is now."""
        raw = {name: self._raw(name, len(x)) for name, x in self.features.items() if x is not None}
        means = fit_input_norm(raw.get("source"), raw.get("target"), self.method.centering)
        self.norm = InputNorm(means).to(self.run.device)
        changed: dict[str, Any] = {}
        for name, features in raw.items():
            domains = torch.full((len(features),), DOMAINS.index(name))
            x = InputNorm(means)(torch.from_numpy(features), domains)
            self.features[name] = x.to(self.run.device)
            changed[name] = replace(getattr(self.data, name), features=x.numpy())
        self.method.renew(replace(self.data, **changed), self.run)

    def _raw(self, name: str, n: int) -> NDArray[np.float16]:
        """Features (n, d) of a domain, rounded as an exported backbone rounds them."""
        blocks = [np.arange(start, min(start + LOOK_ROWS, n)) for start in range(0, n, LOOK_ROWS)]
        with closing(self.tuning.photos([(name, rows) for rows in blocks])) as photos:
            looked = [self.backbone(torch.from_numpy(pixels).to(self.run.device)).cpu().numpy() for pixels in photos]
        return np.concatenate(looked)

    def draws(self, epoch: int, steps: int) -> Iterator[Any]:
        plan = [next(super(_Loop, self).draws(epoch, 1)) for _ in range(steps)]
        wanted = [(name, rows) for drawn in plan for name, rows in drawn.items()]
        with closing(self.tuning.photos(wanted)) as photos:
            for step, drawn in enumerate(plan):
                rng = np.random.default_rng([self.run.seed, epoch, step])
                yield {name: (rows, varied(torch.from_numpy(next(photos)), rng)) for name, rows in drawn.items()}

    def step(self, drawn: Any) -> dict[str, Tensor]:
        """As always; while the device has no memory for it, with half as many photos, now and from here on."""
        while True:
            try:
                return super().step(drawn)
            except torch.OutOfMemoryError:
                self._halve()

    def _halve(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.run.device == "cuda":
            torch.cuda.empty_cache()
        size = min(sampler.halve() for sampler in self.samplers.values())
        if size < 2:
            raise MachineError(
                f"{self.run.device} has too little memory to train this backbone", "--finetune last, or --device cpu"
            )
        self.run.progress.say(f"out of memory on {self.run.device}: batches of {size} photos from here on")

    def batch(self, drawn: Any) -> Batch:
        parts: dict[str, DomainBatch | None] = {"source": None, "target": None}
        device = self.run.device
        for name, (numbers, pixels) in drawn.items():
            rows = torch.from_numpy(numbers[: self.samplers[name].size]).to(device)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.mixed):
                raw = self.backbone.features(pixels[: len(rows)].to(device))
            x = self.norm(raw.float(), torch.full((len(rows),), DOMAINS.index(name), device=device))
            parts[name] = DomainBatch(x, rows, self.labels_of(name, rows))
        return Batch(**parts)
