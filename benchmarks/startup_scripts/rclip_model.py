"""A data folder for rclip with its architecture and random weights, as its model cannot be brought along. DATA

rclip never opens the two other files for a query by an image; it only wants them to be there.
"""

import sys
import warnings
from pathlib import Path

import torch

from hashcli.torchvision_remedy import import_torchvision

import_torchvision()  # which open_clip imports, and which not every torch lets in
import open_clip  # noqa: E402

data = Path(sys.argv[1])
visual = data / "ViT-B-32-256-datacomp_s34b_b86k" / "visual.onnx"
for other in (visual.with_name("textual.onnx"), data / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz"):
    other.parent.mkdir(parents=True, exist_ok=True)
    other.touch()
torch.manual_seed(0)
model = open_clip.create_model("ViT-B-32-256", pretrained=None).visual.eval()
torch.backends.mha.set_fastpath_enabled(False)  # which ONNX does not know
with torch.inference_mode(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, 256, 256),),
        visual,
        dynamo=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "n"}, "output": {0: "n"}},
        opset_version=17,
    )
