from __future__ import annotations

import pytest
import torch

from datafree.distillation.fidelity import student_fidelity
from datafree.distillation.heads import TeacherHeads, own_logits
from datafree.distillation.joined_pools import JoinedPools
from datafree.distillation.losses import distillation_loss


def test_own_logits_are_those_of_each_images_own_teacher():
    torch.manual_seed(0)
    heads = TeacherHeads(6, [2, 4, 3])
    features, teacher = torch.randn(5, 6), torch.tensor([2, 0, 1, 1, 2])
    logits = own_logits(heads, features, teacher)
    for row, number in enumerate(teacher.tolist()):
        count = [2, 4, 3][number]
        expected = heads.weight[number, :count] @ features[row] + heads.bias[number, :count]
        torch.testing.assert_close(logits[row, :count], expected)
        assert not logits[row].softmax(0)[count:].any()


def test_a_network_that_equals_its_teachers_has_agreement_1_and_divergence_0(joined):
    def predict(batch):
        return batch.soft_labels.clamp_min(2.0**-24).log().masked_fill(_absent(joined, batch.teacher), -1e4)

    result = student_fidelity(predict, joined, torch.arange(len(joined.images)), 4.0)
    assert result.agreement == 1
    assert abs(result.kl) < 1e-6
    batch = joined.batch(torch.arange(len(joined.images)))
    assert abs(distillation_loss(predict(batch), batch.soft_labels, 4.0)) < 1e-5


@pytest.mark.parametrize("batch_size", [7, 256])
def test_the_fidelity_equals_its_definition_for_any_batch_size(joined, batch_size):
    index = torch.randperm(len(joined.images), generator=torch.Generator().manual_seed(1))[:50]

    def logits_of(images):
        return images[:, 0, 7, 3:8]

    def predict(batch):
        return logits_of(batch.images).masked_fill(_absent(joined, batch.teacher), -1e4)

    result = student_fidelity(predict, joined, index, 2.0, batch_size)
    agreed, divergences = [], []
    for i in index.tolist():
        count = joined.classes[joined.teacher[i]]
        p = joined.soft_labels[i, :count].double().clamp_min(2.0**-24) ** 0.5
        p, q = p / p.sum(), (logits_of(joined.batch(torch.tensor([i])).images)[0, :count].double() / 2).softmax(0)
        agreed.append(float(p.argmax() == q.argmax()))
        divergences.append(float((p * (p / q).log()).sum()))
    assert 0 < result.agreement < 1
    assert result.agreement == pytest.approx(sum(agreed) / 50)
    assert result.kl == pytest.approx(sum(divergences) / 50, rel=1e-5)


def _absent(joined: JoinedPools, teacher: torch.Tensor) -> torch.Tensor:
    return torch.arange(5)[None, :] >= torch.tensor(joined.classes)[teacher][:, None]
