"""DAH: hidden units and codes of both domains get one distribution, and target codes lie near one label code each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hashcli.method import Run
from hashcli.settings import Param
from hashcli.supervised import LabelCodeMethod, LabelCodeSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hashcli.data import Bank, Batch


@dataclass(frozen=True)
class Settings(LabelCodeSettings):
    """Weights of 0 turn a part off. Chosen on the benchmark's development tasks, as every rival's."""

    warmup: Annotated[int, Param("epochs on the source alone, before targets take part", ge=0)] = 1
    discrepancy: Annotated[float, Param("weight of the domains' mean discrepancy", ge=0)] = 0.3
    entropy: Annotated[float, Param("weight of the target's prediction entropy", ge=0)] = 0.1


class DAH(LabelCodeMethod):
    """The source loss, multi-kernel MMD of hidden units and codes, and minimal entropy on the target.

    After deep adaptation hashing; its pairwise loss and class exemplars are the label codes here, as in every rival.
    """

    summary = "adapts to an unlabeled target: matches the domains' distributions"
    paper = "Venkateswara et al., Deep Hashing Network for Unsupervised Domain Adaptation, CVPR 2017"
    needs = frozenset({"source_labels", "target_images"})
    Settings = Settings
    settings: Settings

    def begin_epoch(self, epoch: int, bank: Bank, run: Run) -> None:
        self._adapting = epoch >= self.settings.warmup

    def loss(self, head: nn.Module, helpers: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        from torch import nn

        from hashcli import alignment, losses

        s = self.settings
        assert batch.source is not None and batch.source.labels is not None and batch.target is not None
        assert isinstance(head, nn.Sequential)
        source_hidden = head[:-2](batch.source.features)
        source = head[-2:](source_hidden)
        terms = self.source_terms(source, batch.source.labels)
        if not self._adapting:
            return terms
        target_hidden = head[:-2](batch.target.features)
        target = head[-2:](target_hidden)
        apart = alignment.mean_discrepancy(source_hidden, target_hidden) + alignment.mean_discrepancy(source, target)
        terms["discrepancy"] = s.discrepancy * apart
        terms["entropy"] = s.entropy * losses.entropy(self.logits(target), multi_label=False)
        return terms
