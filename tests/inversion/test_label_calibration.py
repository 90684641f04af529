import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.inversion.label_calibration import calibrated_targets


def test_the_first_rounds_targets_are_the_labels():
    assert torch.equal(calibrated_targets(torch.tensor([2, 0]), None, 3), torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))


def test_later_rounds_targets_are_the_predictions_unless_of_another_class():
    predictions = torch.tensor([[0.1, 0.3, 0.6], [0.2, 0.7, 0.1]], dtype=torch.float16)
    targets = calibrated_targets(torch.tensor([2, 0]), predictions, 3)
    assert torch.allclose(targets, torch.tensor([[0.1, 0.3, 0.6], [1.0, 0.0, 0.0]]), atol=1e-3)


@given(st.integers(1, 30), st.integers(2, 1000), st.integers(0, 9))
def test_targets_are_probabilities_with_the_label_as_argmax(count, classes, seed):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=rng)
    predictions = (3 * torch.randn(count, classes, generator=rng)).softmax(1).to(torch.float16)
    for given_predictions in (None, predictions):
        targets = calibrated_targets(labels, given_predictions, classes)
        assert targets.shape == (count, classes)
        assert targets.dtype == torch.float32
        assert targets.min() >= 0
        assert torch.allclose(targets.sum(1), torch.ones(count), atol=1e-5)
        assert torch.equal(targets.argmax(1), labels)
