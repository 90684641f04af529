"""Distillation losses: how far a student's predictions are from its teacher's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from datafree.zoo.logits import ABSENT, at_least_float32

SMALLEST_PROBABILITY = 2.0**-24  # the smallest positive float16: a stored probability of zero may have been up to this


def divergence(logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) at a temperature, in nats: [...] for logits and probabilities [..., K]. Zero when the two are equal.

    ``logits`` are the student's, ``ABSENT`` where the teacher has no class; ``teacher_probabilities`` are the teacher's softmax at
    temperature 1, from which the one at the temperature is computed here (p^(1/T), renormalised).
    """
    absent = logits <= ABSENT
    log_teacher = (at_least_float32(teacher_probabilities).clamp_min(SMALLEST_PROBABILITY).log() / temperature).masked_fill(absent, ABSENT)
    log_student = (at_least_float32(logits) / temperature).masked_fill(absent, ABSENT)
    log_teacher, log_student = log_teacher.log_softmax(-1), log_student.log_softmax(-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)  # `F.kl_div` is computed task by task under vmap


def distillation_loss(logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """T² times the mean ``divergence``, a scalar; Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.

    The factor T² makes the gradient's size independent of the temperature.
    """
    return temperature**2 * divergence(logits, teacher_probabilities, temperature).mean()


def released_divergence(logits: Tensor, teacher_probabilities: Tensor) -> Tensor:
    """What the released code of FREE minimises as KL divergence, a scalar: it passes probabilities, not log-probabilities, to ``kl_div``.

    Its gradient is that of −mean p_student · p_teacher. The minimum is probability 1 for the teacher's most probable class, not equality.
    For comparison only.
    """
    return F.kl_div(logits.softmax(-1), teacher_probabilities.to(logits.dtype), reduction="none").mean()
