import pytest
import torch
from jury import jury
from torch import nn

from datafree.evaluation.inversion_quality import Judge
from datafree.zoo.backbones import Normalise

CPU = torch.device("cpu")
CLASSES = ("red", "green", "blue")


class MeanColour(nn.Module):
    """Logits [B, 3]: the mean of each channel, in the given order."""

    def __init__(self, order):
        super().__init__()
        self.order = list(order)

    def forward(self, images):
        return images.mean((2, 3))[:, self.order]


def judge(*order):
    return Judge(MeanColour(order), Normalise([0.0] * 3, [1.0] * 3), CLASSES)  # pyright: ignore[reportArgumentType]


def test_a_jury_measures_accuracy_unanimity_and_pairwise_agreement():
    labels = torch.arange(6) % 3
    images = (200 * torch.eye(3)[labels])[:, :, None, None].expand(6, 3, 8, 8).to(torch.uint8)
    right, wrong = judge(0, 1, 2), judge(1, 0, 2)  # the second confuses red and green
    one = jury([right], CLASSES, images, labels, CPU)
    assert one == {"jury_accuracy": 1.0, "jury_unanimous": 1.0, "jury_agreement": 1.0}
    two = jury([right, wrong], CLASSES, images, labels, CPU)
    assert two["jury_accuracy"] == pytest.approx(4 / 6)
    assert two["jury_unanimous"] == two["jury_agreement"] == pytest.approx(1 / 3)
    three = jury([right, wrong, wrong], CLASSES, images, labels, CPU)
    assert three["jury_accuracy"] == pytest.approx((1 + 2 / 3) / 3)
    assert three["jury_unanimous"] == pytest.approx(1 / 3)
    assert three["jury_agreement"] == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
