import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.distillation.losses import distillation_loss, released_divergence
from datafree.zoo.logits import ABSENT

TEMPERATURES = [0.5, 1.0, 4.0]


def normal(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- distillation -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)])
def test_loss_and_gradient_are_zero_at_equality(shape, temperature):
    logits = normal(*shape, scale=2.0, dtype=torch.float32).requires_grad_()
    loss = distillation_loss(logits, logits.detach().softmax(-1), temperature)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad.abs().max() < 1e-5


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_loss_and_gradient_are_zero_at_equality_with_different_numbers_of_classes(temperature):
    logits = normal(6, 2, 5, dtype=torch.float32)
    logits[:, 0, 3:] = ABSENT
    logits.requires_grad_()
    loss = distillation_loss(logits, logits.detach().softmax(-1), temperature)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad.abs().max() < 1e-5


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_an_absent_class_does_not_affect_the_loss(temperature):
    student, teacher = normal(4, 3, dtype=torch.float32), normal(4, 3, seed=1, dtype=torch.float32).softmax(-1)
    wide_student = torch.cat([student, torch.full((4, 2), ABSENT)], 1).requires_grad_()
    wide_teacher = torch.cat([teacher, torch.zeros(4, 2)], 1)
    narrow_student = student.clone().requires_grad_()
    wide, narrow = distillation_loss(wide_student, wide_teacher, temperature), distillation_loss(narrow_student, teacher, temperature)
    wide.backward()
    narrow.backward()
    assert wide.item() == pytest.approx(narrow.item(), rel=1e-5)
    assert torch.allclose(wide_student.grad[:, :3], narrow_student.grad, atol=1e-6)
    assert torch.equal(wide_student.grad[:, 3:], torch.zeros(4, 2))


@given(st.integers(0, 999), st.sampled_from(TEMPERATURES), st.floats(0.1, 3))
def test_the_loss_is_the_divergence_of_the_tempered_distributions(seed, temperature, scale):
    student, teacher = normal(3, 4, seed=seed, scale=scale), normal(3, 4, seed=seed + 1000, scale=scale)
    expected = 0.0
    for student_row, teacher_row in zip(student.tolist(), teacher.tolist(), strict=True):
        # p^(1/T), renormalised, is the softmax of the logits over T.
        p = [math.exp(value / temperature) for value in teacher_row]
        q = [math.exp(value / temperature) for value in student_row]
        p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(student)
    loss = distillation_loss(student, teacher.softmax(-1), temperature).item()
    assert loss == pytest.approx(temperature**2 * expected, rel=1e-3, abs=1e-5)
    assert loss > -1e-6


def test_every_teacher_has_the_same_weight():
    student, teacher = normal(4, 3, 5), normal(4, 3, 5, seed=1).softmax(-1)
    apart = [distillation_loss(student[:, place], teacher[:, place], 2.0) for place in range(3)]
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(sum(loss.item() for loss in apart) / 3)


def test_minimising_the_loss_brings_the_student_to_the_teacher():
    teacher = normal(5, 4, seed=1, scale=2).softmax(-1)
    student = normal(5, 4).requires_grad_()
    optimiser = torch.optim.Adam([student], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        distillation_loss(student, teacher, 4.0).backward()
        optimiser.step()
    assert torch.allclose(student.softmax(-1), teacher, atol=0.01)


def test_probabilities_of_0_and_1_give_finite_losses_and_gradients():
    logits = torch.tensor([[500.0, 0, 0], [0.0, 0, 0]], requires_grad=True)
    loss = distillation_loss(logits, torch.tensor([[0.0, 1, 0], [1, 0, 0]]), 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


# ---- the released code's divergence -----------------------------------------------------------------------------------------------------


def test_the_released_divergence_is_minimal_at_certainty_not_at_equality():
    logits, teacher = normal(6, 4).requires_grad_(), normal(6, 4, seed=1).softmax(-1)
    (gradient,) = torch.autograd.grad(released_divergence(logits, teacher), logits)
    (overlap,) = torch.autograd.grad(-(logits.softmax(-1) * teacher).mean(), logits)
    assert torch.allclose(gradient, overlap)
    equal = teacher.log().requires_grad_()
    (gradient,) = torch.autograd.grad(released_divergence(equal, teacher), equal)
    assert gradient.abs().max() > 1e-3  # a divergence has its minimum here
    certain = torch.nn.functional.one_hot(teacher.argmax(1), 4).double() * 50
    assert released_divergence(certain, teacher) < released_divergence(teacher.log(), teacher)
