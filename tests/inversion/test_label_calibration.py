import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.inversion.label_calibration import calibrated_targets


def test_the_first_round_aims_at_the_labels():
    assert torch.equal(calibrated_targets(torch.tensor([2, 0]), None, 3), torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))


def test_later_rounds_aim_at_the_answers_unless_they_name_another_class():
    predictions = torch.tensor([[0.1, 0.3, 0.6], [0.2, 0.7, 0.1]], dtype=torch.float16)
    targets = calibrated_targets(torch.tensor([2, 0]), predictions, 3)
    assert torch.allclose(targets, torch.tensor([[0.1, 0.3, 0.6], [1.0, 0.0, 0.0]]), atol=1e-3)


@given(st.integers(1, 30), st.integers(2, 1000), st.integers(0, 9))
def test_targets_lie_on_the_simplex_and_name_their_label(count, classes, seed):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=rng)
    predictions = (3 * torch.randn(count, classes, generator=rng)).softmax(1).to(torch.float16)
    for given_answers in (None, predictions):
        targets = calibrated_targets(labels, given_answers, classes)
        assert targets.shape == (count, classes)
        assert targets.dtype == torch.float32
        assert targets.min() >= 0
        assert torch.allclose(targets.sum(1), torch.ones(count), atol=1e-5)
        assert torch.equal(targets.argmax(1), labels)
