"""The same query with what it cannot do without: PIL, onnxruntime, lmdb, numpy. GALLERY HASHER PHOTO"""

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from scan import nearest

gallery, hasher, photo = sys.argv[1:]
with Image.open(photo) as image:
    image.draft("RGB", (448, 448))
    pixels = ImageOps.fit(image.convert("RGB"), (224, 224), Image.Resampling.BICUBIC)
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
backbone, head = (
    onnxruntime.InferenceSession(os.path.join(hasher, name), options, providers=["CPUExecutionProvider"])
    for name in ("backbone.onnx", "head.onnx")
)
(feature,) = backbone.run(None, {"pixels": np.asarray(pixels)[None]})
(relaxed,) = head.run(None, {"feature": feature, "domain": np.ones(1, np.int64)})
for distance, path in nearest(gallery, np.packbits(relaxed[0] >= 0, bitorder="little")):
    print(distance, path, sep="\t")
