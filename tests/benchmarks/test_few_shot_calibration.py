import pytest
import torch
from few_shot_calibration import COLUMNS, auroc, calibration_error, measure
from sklearn.metrics import roc_auc_score


@pytest.mark.parametrize("decimals", [0, 3])  # with ties and without
def test_auroc_is_that_of_scikit_learn(decimals):
    rng = torch.Generator().manual_seed(0)
    known, unknown = (torch.randn(count, generator=rng).add(shift).round(decimals=decimals) for count, shift in ((40, 0.5), (60, 0.0)))
    labels = [1] * 40 + [0] * 60
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(labels, torch.cat([known, unknown]).numpy()))


def test_calibration_error_is_that_of_a_loop_over_the_bins():
    rng = torch.Generator().manual_seed(1)
    confidence, correct = torch.rand(200, generator=rng), torch.rand(200, generator=rng) < 0.6
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            expected += inside.float().mean().item() * abs(confidence[inside].mean().item() - correct[inside].float().mean().item())
    assert calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-6)
    assert calibration_error(torch.ones(5), torch.ones(5, dtype=torch.bool)) == 0


def test_separable_classes_are_labelled_and_told_from_others():
    rng = torch.Generator().manual_seed(2)
    means = 6 * torch.randn(9, 8, generator=rng)
    representations = (means[:, None] + torch.randn(9, 30, 8, generator=rng)).flatten(0, 1)
    members = list(torch.arange(270).split(30))
    row = measure(representations, members, 3 * torch.randn(100, 8, generator=rng), way=4, shot=8, episodes=5)
    assert row["accuracy"]["mean"] > 0.95
    assert row["auroc"]["mean"] > 0.9
    assert row["ece"]["mean"] < 0.1 < row["ece_1"]["mean"]
    assert set(row) == {"way", "shot", *COLUMNS}
