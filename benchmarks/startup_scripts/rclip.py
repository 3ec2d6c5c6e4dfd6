"""What rclip's image query computes: ViT-B/32 at 256 pixels by open_clip, with random weights. GALLERY HASHER PHOTO"""

import sys

import numpy as np
import open_clip
import torch
from PIL import Image

model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32-256", pretrained=None)
with Image.open(sys.argv[3]) as image, torch.inference_mode():
    feature = model.eval().encode_image(preprocess(image.convert("RGB"))[None])[0].numpy()
known = np.random.default_rng(0).standard_normal((10, len(feature)), np.float32)
for row in np.argsort(-(known @ feature)):
    print(row)
