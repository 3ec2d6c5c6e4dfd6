"""Self-training: the head's surest guesses on target photos become labels for the next epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hashcli.method import Run, Task
from hashcli.settings import Param
from hashcli.supervised import LabelCodeMethod, LabelCodeSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hashcli.data import Bank, Batch


@dataclass(frozen=True)
class Settings(LabelCodeSettings):
    """Chosen on the benchmark's development tasks, as every rival's (benchmarks/results/quality.md)."""

    warmup: Annotated[int, Param("epochs on the source alone, before targets take part", ge=0)] = 3
    alpha: Annotated[float, Param("share of the targets trusted, the surest ones", ge=0, le=1)] = 0.6
    soft_labels: Annotated[bool, Param("train on label probabilities, not on the likeliest label")] = False
    target_weight: Annotated[float, Param("weight of the pseudo-label loss", ge=0)] = 0.3


class SelfTraining(LabelCodeMethod):
    """Cross-entropy of target codes to the head's own guesses, renewed before every epoch."""

    summary = "adapts to an unlabeled target: trains on its own surest guesses"
    paper = "Lee, Pseudo-Label, ICML 2013 workshop; COUPLE's ablation V1"
    needs = frozenset({"source_labels", "target_images"})
    Settings = Settings
    settings: Settings

    def __init__(self, task: Task, settings: Settings) -> None:
        super().__init__(task, settings)
        self._believed: tuple[Tensor, Tensor] | None = None

    def begin_epoch(self, epoch: int, bank: Bank, run: Run) -> None:
        import torch
        from torch.nn import functional as F

        from hashcli.selection import margins, select

        self._believed = None
        if epoch < self.settings.warmup:
            return
        assert bank.target_relaxed is not None
        guess = F.softmax(self.logits(bank.target_relaxed), 1)
        surest = select(margins(guess.cpu().numpy()), self.settings.alpha)
        weights = torch.from_numpy(surest).to(guess)
        if not self.settings.soft_labels:
            guess = F.one_hot(guess.argmax(1), guess.shape[1]).to(guess.dtype)
        self._believed = guess, weights
        run.progress.log("selection", epoch=epoch, selected=int(weights.sum()))

    def loss(self, head: nn.Module, helpers: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        from hashcli.losses import soft_cross_entropy

        assert batch.source is not None and batch.source.labels is not None and batch.target is not None
        terms = self.source_terms(head(batch.source.features), batch.source.labels)
        if self._believed is not None:
            labels, weights = (given[batch.target.rows] for given in self._believed)
            logits = self.logits(head(batch.target.features))
            terms["target"] = self.settings.target_weight * soft_cross_entropy(logits, labels, weights)
        return terms
