"""PEACE: pseudo-labels pull target codes to label codes, an adversary hides which domain a photo is of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hashcli.method import Run
from hashcli.settings import Param
from hashcli.supervised import LabelCodeMethod, LabelCodeSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hashcli.data import Bank, Batch

SURENESS, DIVERGENCE = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5))  # constants of the authors' code


@dataclass(frozen=True)
class Settings(LabelCodeSettings):
    """Weights of 0 turn a part off. Chosen on the benchmark's development tasks, as every rival's."""

    warmup: Annotated[int, Param("epochs on the source alone, before targets take part", ge=0)] = 1
    adversary: Annotated[float, Param("weight of the domain discriminator", ge=0)] = 0.1
    discriminator: Annotated[int, Param("width of the discriminator and of what it sees", ge=1, le=65536)] = 256
    alignment: Annotated[float, Param("weight of target class means lying at the label codes", ge=0)] = 0.3
    target_weight: Annotated[float, Param("weight of target codes being sure of their class", ge=0)] = 0.1
    sharpness: Annotated[float, Param("scale of the cosine that class probabilities come from", ge=0.1, le=1000)] = 20.0


class PEACE(LabelCodeMethod):
    """The authors' target terms and conditional adversary, with the head and source loss of every rival here.

    Their source logits compare with fixed random vectors; label codes stand for these. The adversary sees a random
    map of the outer product of softmax codes and hidden units, which is too wide itself. Probabilities are sharpened
    cosines, so that they do not depend on the code length.
    """

    summary = "adapts to an unlabeled target: weighed pseudo-labels and an adversary"
    paper = "PEACE, IEEE Transactions on Image Processing 2023, as in the authors' code"
    needs = frozenset({"source_labels", "target_images"})
    Settings = Settings
    settings: Settings

    def build_helpers(self) -> nn.ModuleDict:
        from hashcli.alignment import RandomOuter, discriminator

        helpers = super().build_helpers()
        width = self.settings.discriminator
        helpers["outer"] = RandomOuter(self.task.n_bits, self.settings.hidden, width)
        helpers["discriminator"] = discriminator(width, width)
        return helpers

    def begin_epoch(self, epoch: int, bank: Bank, run: Run) -> None:
        self._step = epoch * self.settings.steps_per_epoch

    def loss(self, head: nn.Module, helpers: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        import torch
        from torch import nn

        from hashcli import alignment, losses

        s = self.settings
        assert batch.source is not None and batch.source.labels is not None and batch.target is not None
        assert isinstance(head, nn.Sequential)
        done = self._step - s.warmup * s.steps_per_epoch
        self._step += 1
        if done < 0:
            return self.source_terms(head(batch.source.features), batch.source.labels)
        hidden = [head[:-2](part.features) for part in (batch.source, batch.target)]
        source, target = (head[-2:](x) for x in hidden)
        seen = [helpers["outer"](torch.softmax(h, 1), x) for h, x in zip((source, target), hidden, strict=True)]
        strength = alignment.reversal_strength(done / max((s.epochs - s.warmup) * s.steps_per_epoch, 1))
        codes = self.codes().detach()
        cosines = losses.code_logits(target, codes, 1.0)
        sure, apart = self._certainty(cosines)
        return self.source_terms(source, batch.source.labels) | {
            "adversary": s.adversary * alignment.domain_loss(helpers["discriminator"], *seen, strength),
            "alignment": s.alignment * class_means_off(target, cosines.detach().argmax(1), codes),
            "target": s.target_weight * (SURENESS * sure + DIVERGENCE * apart),
        }

    def _certainty(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """How far the largest cosines (m, C) are from 1, and probabilities from sure ones, of the photos kept.

        Kept are the first exp(-discrepancy) of the batch, the discrepancy being that of probabilities and sure ones.
        """
        import torch
        from torch.nn import functional as F

        from hashcli.alignment import mean_discrepancy

        p = torch.softmax(self.settings.sharpness * cosines, 1)
        sure = sure_probabilities(p.detach())
        apart = mean_discrepancy(*(F.normalize(given + 0.001, dim=1) for given in (p.detach(), sure)))
        kept = max(1, int(math.exp(-float(apart)) * len(p)))
        return 1 - cosines[:kept].max(1).values.mean(), divergence(p[:kept], sure[:kept])


def class_means_off(target: Tensor, guess: Tensor, codes: Tensor) -> Tensor:
    """Mean squared distance of class means of target codes (m, n_bits), by guess (m,), from label codes (C, n_bits).

    The mean of n codes is their sum over n + 1, so that few guesses count less; classes without any are left out.
    """
    from torch.nn import functional as F

    of = F.one_hot(guess, len(codes)).to(target.dtype)
    count = of.sum(0)
    means = of.T @ target / (count[:, None] + 1)
    return (means - codes)[count > 0].square().mean()


def sure_probabilities(p: Tensor) -> Tensor:
    """Rows (m, C) that keep the largest of p and spread the rest of 1 evenly."""
    most, at = p.max(1, keepdim=True)
    return ((1 - most) / (p.shape[1] - 1)).expand_as(p).scatter(1, at, most)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence of the rows of p and q (m, C)."""
    middle = ((p + q) / 2).clamp_min(1e-12).log()
    halves = [(x * (x.clamp_min(1e-12).log() - middle)).sum(1) for x in (p, q)]
    return ((halves[0] + halves[1]) / 2).mean()
