"""What methods with label codes share: head, label codes, source loss. A rival built on it is no weaker by its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hashcli.method import GradientMethod, GradientSettings
from hashcli.settings import Param

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class LabelCodeSettings(GradientSettings):
    """Those of the `source-only` method; subclasses add their own."""

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


class LabelCodeMethod(GradientMethod):
    """A two-layer head, and classes told by the nearness of codes to label codes (COUPLE, Eqs. 12-14)."""

    Settings = LabelCodeSettings
    settings: LabelCodeSettings

    def build_head(self) -> nn.Sequential:
        """`losses.hash_head`: its last two layers turn hidden units into codes."""
        from hashcli.losses import hash_head

        return hash_head(self.task.feature_dim, self.settings.hidden, self.task.n_bits, self.settings.dropout)

    def build_helpers(self) -> nn.ModuleDict:
        """The label codes, called "codes"."""
        from torch import nn

        from hashcli.losses import LabelCodes

        self.codes = LabelCodes(self.task.n_classes, self.task.n_bits, self.settings.label_codes)
        return nn.ModuleDict({"codes": self.codes})

    def logits(self, relaxed: Tensor) -> Tensor:
        """Class logits (n, n_classes) of relaxed codes (n, n_bits)."""
        from hashcli.losses import code_logits

        return code_logits(relaxed, self.codes(), self.settings.scale)

    def source_terms(self, relaxed: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss on labeled photos: relaxed codes (n, n_bits), labels (n,)."""
        from torch.nn import functional as F

        from hashcli import losses

        s = self.settings
        logits = losses.margin_logits(self.logits(relaxed), labels, s.margin * s.scale)
        return {
            "source": F.cross_entropy(logits, labels),
            "separation": s.separation * losses.separation(self.codes()),
            "quantization": s.quantization * losses.quantization(relaxed),
        }
