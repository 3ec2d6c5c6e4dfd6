"""The same query through torch and timm, with random weights of the default backbone. GALLERY HASHER PHOTO"""

import sys

import numpy as np
import torch

from hashcli.torchvision_remedy import import_torchvision

import_torchvision()  # which timm imports, and which not every torch lets in
import timm  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402
from scan import nearest  # noqa: E402

gallery, _, photo = sys.argv[1:]
model = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
head = torch.nn.Linear(1280, 64)
with Image.open(photo) as image:
    image.draft("RGB", (448, 448))
    pixels = ImageOps.fit(image.convert("RGB"), (224, 224), Image.Resampling.BICUBIC)
with torch.inference_mode():
    x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float().sub_(127).div_(128)
    bits = (head(model(x))[0] >= 0).numpy()
for distance, path in nearest(gallery, np.packbits(bits, bitorder="little")):
    print(distance, path, sep="\t")
