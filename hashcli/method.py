"""The contract that method plugins see. A plugin imports this, `settings`, `losses`, `graphs`; nothing else of hashcli.

A method turns training features into hash functions. Closed-form methods implement `fit`; methods trained by
gradient steps subclass `GradientMethod` and give a head and a loss, and the host does the rest. Nothing here
imports torch when it is imported, so that `hashcli methods NAME` and shell completion stay quick: plugins
import torch inside the functions that use it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from hashcli.data import Bank, Batch, TrainingData
from hashcli.errors import UsageError
from hashcli.progress import Progress, Silent
from hashcli.settings import Param

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

Centering = Literal["none", "pooled", "per_domain"]
TextFeatures = Literal["auto", "words", "tower"]
Need = Literal["source_labels", "target_images", "captions"]


@dataclass(frozen=True)
class Task:
    """What is asked of a method: the sizes it must honor, the seed of all its randomness, the name it was called by."""

    n_bits: int
    feature_dim: int
    n_classes: int
    seed: int
    name: str = "this method"


class Tuning(Protocol):
    """Trains backbone and head together."""

    def minimize(self, method: GradientMethod, data: TrainingData, run: Run) -> nn.Module:
        """The head; as `optimization.minimize`."""


@dataclass
class Run:
    """How one fit runs: device, where progress and counts go, where checkpoints may lie (None: nowhere).

    tuning: what trains the backbone too (`finetuning.Tuning`); None while it stays as it is.
    """

    seed: int
    device: str = "cpu"
    progress: Progress = field(default_factory=Silent)
    checkpoint: Path | None = None
    tuning: Tuning | None = None


@dataclass
class Fitted:
    """The result of a fit.

    image, text   modules from normalized features (n, d) to relaxed codes (n, n_bits); both export to ONNX
    training_codes  (n, n_bits) 0/1 rows aligned with the training rows, where the method learns them (DCGH's H)
    """

    image: nn.Module
    text: nn.Module | None = None
    training_codes: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class NoSettings:
    """A method with nothing to set."""


def one_label_only(name: str) -> UsageError:
    """The refusal of photos with several labels."""
    return UsageError(f"{name} takes one label per photo, and some have several", "try `--method metah`")


class HashMethod(ABC):
    """One way to learn a hash function.

    `summary` is one line for lists, `paper` the reference. `needs` says what must be there; `multi_label`
    whether photos may carry several labels. The host checks both before any work. `finetunes`: a `GradientMethod`
    that keeps nothing of the features but what `renew` and `begin_epoch` renew, so that the backbone may be trained.
    """

    summary: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    multi_label: ClassVar[bool] = False
    finetunes: ClassVar[bool] = False
    Settings: ClassVar[type] = NoSettings

    def __init__(self, task: Task, settings: Any) -> None:
        self.task = task
        self.settings = settings

    @property
    def centering(self) -> Centering:
        """Which mean the host takes off the features; a setting of that name decides where there is one."""
        chosen: Centering = getattr(self.settings, "centering", "per_domain")
        return chosen

    @property
    def text_features(self) -> TextFeatures:
        """How captions become features: words counted, by the backbone's text tower, or by that where there is one.

        A setting `text` decides where there is one.
        """
        chosen: TextFeatures = getattr(self.settings, "text", "auto")
        return chosen

    @property
    def wants_pixels(self) -> bool:
        """Whether `data.*.images` and `data.encode` are needed (photos are then read while training)."""
        return False

    def check(self, data: TrainingData) -> None:
        """Refuse data this method cannot learn from.

        Raises UsageError that says what is missing; subclasses add their own conditions after `super().check`.
        """
        name = self.task.name
        source, target = data.source, data.target
        if "source_labels" in self.needs:
            if source is None or source.labels is None:
                raise UsageError(f"{name} learns from labels, and there are none", "try `--method dsah`")
            if data.n_classes < 2:
                raise UsageError(
                    f"{name} needs photos of at least 2 classes, found {data.n_classes}",
                    "put each class in its own subfolder, or give --labels FILE.csv",
                )
        if "target_images" in self.needs and target is None:
            raise UsageError(f"{name} adapts to a second, unlabeled folder", "use `hashcli adapt --src ... --tgt ...`")
        if "captions" in self.needs and (source is None or source.text is None or not source.text.any()):
            raise UsageError(
                f"{name} learns from photos with captions, and there are none",
                "put a text file beside each photo (photo.jpg.txt), or give --captions-file FILE.csv",
            )
        if data.multi_label and not self.multi_label:
            raise one_label_only(name)

    @abstractmethod
    def fit(self, data: TrainingData, run: Run) -> Fitted:
        """Learn the hash functions. Deterministic for a given `task.seed`, data and thread count."""


@dataclass(frozen=True)
class GradientSettings:
    """The schedule shared by methods that are trained by gradient steps; they subclass this."""

    epochs: Annotated[int, Param("epochs; begin_epoch runs before each", ge=1, le=10000)] = 6
    steps_per_epoch: Annotated[int, Param("gradient steps in an epoch", ge=1, le=100000)] = 50
    batch_size: Annotated[int, Param("photos of each domain in a step", ge=2, le=65536)] = 128
    learning_rate: Annotated[float, Param("AdamW's learning rate", ge=0, le=1)] = 1e-3
    weight_decay: Annotated[float, Param("AdamW's weight decay", ge=0, le=1)] = 1e-4


class GradientMethod(HashMethod):
    """A method given by a head and a loss; the host owns device, batches, optimizer, checkpoints and logging."""

    Settings: ClassVar[type] = GradientSettings
    class_balanced: ClassVar[bool] = False

    @abstractmethod
    def build_head(self) -> nn.Module:
        """The network from normalized features (n, d) to relaxed codes (n, n_bits), freshly drawn."""

    def build_helpers(self) -> nn.ModuleDict:
        """Modules trained with the head and never saved with the hasher: classifiers, discriminators, label codes."""
        from torch import nn

        return nn.ModuleDict()

    def prepare(self, data: TrainingData, run: Run) -> None:
        """Look at the training data once, before the first epoch."""

    def renew(self, data: TrainingData, run: Run) -> None:
        """Look at the training data again: fine-tuning has changed all features. Called before `begin_epoch`."""

    def begin_epoch(self, epoch: int, bank: Bank, run: Run) -> None:
        """Renew pseudo-labels, graphs, prototypes. Called with no gradients, before the steps of `epoch` (from 0).

        Must depend on `epoch`, `bank`, the data and the seed alone, or give the rest in `state()`: a run that was
        stopped goes on from a checkpoint taken between epochs.
        """

    @abstractmethod
    def loss(self, head: nn.Module, helpers: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        """Named, weighted terms; the host sums them, logs them and back-propagates."""

    def state(self) -> dict[str, Tensor]:
        """What must survive from one epoch to the next beside the networks (mean teachers, moving averages)."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state()` gave."""

    def fit(self, data: TrainingData, run: Run) -> Fitted:
        """Train the head by gradient steps (`optimization.minimize`), and the backbone if that is asked for."""
        from hashcli.optimization import minimize

        return Fitted(image=(run.tuning.minimize if run.tuning else minimize)(self, data, run))
