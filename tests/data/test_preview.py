import numpy as np
import torch

from datafree.data.images import GAP, ImageSet
from datafree.data.preview import CLASSES, SAMPLES, preview


def plain(classes, per_class, first):
    """Uniform images with the brightness ``first`` + class index."""
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = (labels + first).to(torch.uint8)[:, None, None, None].expand(-1, 3, 6, 4).clone()
    return ImageSet(images, labels, tuple(str(index + first) for index in range(classes)))


def test_the_preview_has_a_row_per_class_and_an_empty_row_between_sets():
    sheet = np.array(preview([plain(2, 3, 10), plain(100, SAMPLES + 5, 100)]))
    assert sheet.shape == ((2 + 1 + CLASSES) * (6 + GAP) + GAP, SAMPLES * (4 + GAP) + GAP, 3)
    tiles = sheet[GAP :: 6 + GAP, GAP :: 4 + GAP, 0]
    assert tiles[:2].tolist() == [[label] * 3 + [255] * (SAMPLES - 3) for label in (10, 11)]
    assert (tiles[2] == 255).all()
    assert tiles[3:].tolist() == [[100 + index * 100 // CLASSES] * SAMPLES for index in range(CLASSES)]
