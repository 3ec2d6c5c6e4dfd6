"""Source-only: supervised hashing of the labelled photos, with no adaptation; what every adaptive method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hashcli.method import GradientMethod, GradientSettings
from hashcli.settings import Param

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hashcli.data import Batch


@dataclass(frozen=True)
class Settings(GradientSettings):
    """The head and loss of COUPLE without its target terms."""

    hidden: Annotated[int, Param("width of the hidden layer", ge=1, le=65536)] = 512
    dropout: Annotated[float, Param("share of hidden units dropped in training", ge=0, le=0.95)] = 0.0
    label_codes: Annotated[str, Param("codes of the classes", choices=("learned", "hadamard"))] = "hadamard"
    scale: Annotated[float, Param("scale of the class logits", ge=0.01, le=1000)] = 8.0
    margin: Annotated[float, Param("taken off the true class's logit, in units of scale", ge=0, le=1)] = 0.0
    separation: Annotated[float, Param("weight that keeps label codes apart", ge=0)] = 0.1
    quantization: Annotated[float, Param("weight of the pull towards -1 and +1", ge=0)] = 0.01
    centering: Annotated[str, Param("mean taken off the features", choices=("none", "pooled", "per_domain"))] = (
        "per_domain"
    )


class SourceOnly(GradientMethod):
    """Cross-entropy of <code, label code> on the source alone (COUPLE's L_S, Eqs. 12-14)."""

    summary = "supervised; learns from the labelled photos alone"
    paper = "the source loss of COUPLE, without adaptation"
    needs = frozenset({"source_labels"})
    Settings = Settings
    settings: Settings

    def build_head(self) -> nn.Module:
        from hashcli.losses import hash_head

        return hash_head(self.task.feature_dim, self.settings.hidden, self.task.n_bits, self.settings.dropout)

    def build_helpers(self) -> nn.ModuleDict:
        from torch import nn

        from hashcli.losses import LabelCodes

        return nn.ModuleDict({"codes": LabelCodes(self.task.n_classes, self.task.n_bits, self.settings.label_codes)})

    def loss(self, head: nn.Module, helpers: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        from torch.nn import functional as F

        from hashcli import losses

        s = self.settings
        assert batch.source is not None and batch.source.labels is not None
        relaxed, codes = head(batch.source.features), helpers["codes"]()
        logits = losses.code_logits(relaxed, codes, s.scale)
        return {
            "source": F.cross_entropy(
                losses.margin_logits(logits, batch.source.labels, s.margin * s.scale), batch.source.labels
            ),
            "separation": s.separation * losses.separation(codes),
            "quantization": s.quantization * losses.quantization(relaxed),
        }
