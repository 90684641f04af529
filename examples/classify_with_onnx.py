"""Label images with a classifier that `datafree export` wrote. Needs onnxruntime, numpy and Pillow, not datafree.

python examples/classify_with_onnx.py birds.onnx photo.jpg other.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
properties = session.get_modelmeta().custom_metadata_map
classes, threshold = json.loads(properties["classes"]), json.loads(properties["threshold"])
size = json.loads(properties["preprocessing"])["input"][2]
for path in sys.argv[2:]:
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    logits, similarity = session.run(None, {"images": np.asarray(photo).transpose(2, 0, 1)[None]})
    probabilities = np.exp(logits[0] - logits[0].max()) / np.exp(logits[0] - logits[0].max()).sum()
    unlike = threshold is not None and similarity[0] < threshold
    print(f"{path}: {'none of these' if unlike else classes[probabilities.argmax()]}, {100 * probabilities.max():.1f} %")
