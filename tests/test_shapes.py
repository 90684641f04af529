"""The checks of shapes and dtypes that all tests run under."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeDoorHintViolation

from datafree.distillation import losses as distillation_losses
from datafree.evaluation import classifiers, nearest_centroid
from datafree.inversion import losses
from tests.shapes import SHAPES, functions_with_tensors


def test_every_public_function_with_tensors_has_its_shapes_checked():
    assert set(functions_with_tensors()) == set(SHAPES)


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.total_variation(torch.rand(3, 8, 8)),
        lambda: losses.jensen_shannon(torch.rand(4, 5), torch.rand(4, 6)),
        lambda: losses.within_class_distance(torch.rand(4, 3, 8, 8), torch.zeros(4)),
        lambda: distillation_losses.divergence(torch.rand(4, 5), torch.rand(3, 5), 1.0),
        lambda: nearest_centroid.nearest_centroid(torch.rand(5, 2, 7), torch.rand(9, 8)),
        lambda: classifiers.CLASSIFIERS["logistic"](torch.rand(5, 2, 7), torch.rand(9, 8)),
    ],
)
def test_an_argument_of_another_shape_or_dtype_is_refused(call):
    with pytest.raises(BeartypeDoorHintViolation):
        call()
