import pytest
import torch

from datafree import devices
from datafree.zoo.teachers import soft_labels


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_soft_labels_are_the_teachers_probabilities(teachers, pools, precision):
    teacher, images = teachers[2], pools[2].images
    with devices.autocast(torch.device("cpu"), precision):
        probabilities = soft_labels(teacher, images, batch_size=7)
        logits = teacher.network(teacher.normalise(images)).double()
    assert probabilities.dtype == torch.float16
    assert probabilities.shape == (len(images), 5)
    # float16 has eleven significant bits; under autocast the products have fewer, but the softmax is computed in float32.
    assert (probabilities.double().sum(1) - 1).abs().max() < 1e-3
    if precision == "float32":
        expected = logits.exp() / logits.exp().sum(1, keepdim=True)
        assert (probabilities.double() - expected).abs().max() < 1e-3
