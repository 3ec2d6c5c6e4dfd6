"""Source-only: supervised hashing of the labeled photos, with no adaptation; what every adaptive method must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hashcli.supervised import LabelCodeMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hashcli.data import Batch


class SourceOnly(LabelCodeMethod):
    """Cross-entropy of <code, label code> on the source alone (COUPLE's L_S, Eqs. 12-14)."""

    summary = "supervised; learns from the labeled photos alone"
    paper = "the source loss of COUPLE, without adaptation"
    needs = frozenset({"source_labels"})
    finetunes = True

    def loss(self, head: nn.Module, helpers: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        assert batch.source is not None and batch.source.labels is not None
        return self.source_terms(head(batch.source.features), batch.source.labels)
