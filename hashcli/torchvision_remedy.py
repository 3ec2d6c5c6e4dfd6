"""Importing torchvision where its compiled operators do not load, as beside a torch built for other hardware.

timm and open_clip import torchvision, and torchvision refuses to be imported when `nms` and `qnms` are not
registered. hashcli calls neither: declaring their schemas is enough for everything else in torchvision to work.
"""

from __future__ import annotations

import sys
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []  # the schemas live as long as the Library object that declared them


def import_torchvision() -> None:
    """Make `import torchvision` work in this process; call it before importing timm or open_clip too."""
    try:
        import torchvision  # type: ignore[import-untyped]
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        import torch

        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)
        _kept.append(library)
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # noqa: F401
