"""METAH: codes that a domain discriminator cannot tell apart and a classifier of target photos is sure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hashcli.method import GradientMethod, GradientSettings, Run, Task
from hashcli.settings import Param

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hashcli.data import Bank, Batch, TrainingData


@dataclass(frozen=True)
class Settings(GradientSettings):
    """entropy=0 gives METAH-e; entropy=0 with classification=0 gives TAH. A weight of 0 turns its part off.

    The published weights (pairwise 6 to 10, quantization 0.8 to 9, classification 0.8, entropy 0.01) and unbalanced
    pairs belong to networks trained whole at a small rate. On a small head over fixed features they settle the signs
    of the codes before classes are learned: codes as good as random projections. These here were chosen on the
    benchmark's development tasks (benchmarks/results/quality.md).
    """

    hidden: Annotated[int, Param("width of the hidden layer", ge=1, le=65536)] = 512
    dropout: Annotated[float, Param("share of hidden units dropped in training", ge=0, le=0.95)] = 0.0
    centering: Annotated[str, Param("mean taken off the features", choices=("none", "pooled", "per_domain"))] = (
        "per_domain"
    )
    pairwise: Annotated[float, Param("weight of the similarity of pairs", ge=0)] = 3.0
    likelihood: Annotated[
        str, Param("how the likelihood of being similar falls with distance", choices=("sigmoid", "tanh"))
    ] = "tanh"
    balanced: Annotated[bool, Param("similar pairs count as much as all the others")] = True
    quantization: Annotated[float, Param("weight of the pull towards -1 and +1", ge=0)] = 0.1
    domain: Annotated[float, Param("weight of the domain discriminator", ge=0)] = 0.8
    discriminator: Annotated[int, Param("width of the discriminator's two layers", ge=1, le=65536)] = 256
    reversal: Annotated[float, Param("what the discriminator teaches the head, at the end", ge=0)] = 1.0
    classification: Annotated[float, Param("weight of the classifier of codes", ge=0)] = 10.0
    entropy: Annotated[float, Param("weight of the target's prediction entropy", ge=0)] = 0.3
    entropy_start: Annotated[float, Param("share of the steps before entropy counts", ge=0, le=1)] = 0.1
    diversity: Annotated[float, Param("spread of target predictions over classes, in units of entropy", ge=0)] = 1.0


class METAH(GradientMethod):
    """TAH's pairwise, quantization and adversarial terms, with a classifier and minimal entropy on the target."""

    summary = "adapts to an unlabeled target: adversarial codes and minimal entropy; takes several labels"
    paper = "METAH: min-entropy transfer adversarial hashing; TAH: Cao et al., Transfer Adversarial Hashing, 2017"
    needs = frozenset({"source_labels", "target_images"})
    multi_label = True
    class_balanced = True  # otherwise few pairs of a batch are similar
    finetunes = True
    Settings = Settings
    settings: Settings

    def __init__(self, task: Task, settings: Settings) -> None:
        super().__init__(task, settings)
        self._step = 0
        self._multi_label = False

    def build_head(self) -> nn.Module:
        from torch import nn

        from hashcli.losses import hash_head

        head = hash_head(self.task.feature_dim, self.settings.hidden, self.task.n_bits, self.settings.dropout)
        # where tanh is saturated, no term has a gradient
        nn.init.normal_(head[-2].weight, std=0.01)
        nn.init.zeros_(head[-2].bias)
        return head

    def build_helpers(self) -> nn.ModuleDict:
        from torch import nn

        from hashcli.alignment import discriminator

        return nn.ModuleDict(
            {
                "classifier": nn.Linear(self.task.n_bits, self.task.n_classes),
                "discriminator": discriminator(self.task.n_bits, self.settings.discriminator),
            }
        )

    def prepare(self, data: TrainingData, run: Run) -> None:
        self._multi_label = data.multi_label

    def begin_epoch(self, epoch: int, bank: Bank, run: Run) -> None:
        self._step = epoch * self.settings.steps_per_epoch

    def loss(self, head: nn.Module, helpers: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        from hashcli import alignment, losses

        s = self.settings
        assert batch.source is not None and batch.source.labels is not None and batch.target is not None
        progress = self._step / (s.epochs * s.steps_per_epoch)
        self._step += 1
        source, target = head(batch.source.features), head(batch.target.features)
        labels = batch.source.labels
        similar = losses.shared_labels(labels, self.task.n_classes)
        strength = s.reversal * alignment.reversal_strength(progress)
        terms = {
            "pairwise": s.pairwise * losses.pairwise_similarity(source, similar, s.likelihood, s.balanced),
            "quantization": s.quantization * losses.log_cosh_quantization(source),
            "domain": s.domain * alignment.domain_loss(helpers["discriminator"], source, target, strength),
            "classification": s.classification * losses.classification(helpers["classifier"](source), labels),
        }
        if progress >= s.entropy_start:
            guess = helpers["classifier"](target)
            terms["entropy"] = s.entropy * losses.entropy(guess, self._multi_label)
            terms["diversity"] = s.entropy * s.diversity * losses.one_sidedness(guess, self._multi_label)
        return terms
