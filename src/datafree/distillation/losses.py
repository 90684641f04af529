"""Distillation losses: how far a student's predictions are from its teacher's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ABSENT = -1e4  # logit of a class that a teacher does not have: probability zero, and no NaN in a loss
SMALLEST_PROBABILITY = 2.0**-24  # the smallest positive float16: what a stored probability of zero may have been


def at_least_float32(values: Tensor) -> Tensor:
    """What autocast made half precision as float32; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def divergence(logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) at a temperature, in nats: [...] for logits and probabilities [..., K]. Zero when the two agree.

    ``logits`` are the student's, ``ABSENT`` where the teacher has no class; ``teacher_probabilities`` are the teacher's softmax at
    temperature 1, brought to the temperature here (p^(1/T), renormalised).
    """
    absent = logits <= ABSENT
    log_teacher = (at_least_float32(teacher_probabilities).clamp_min(SMALLEST_PROBABILITY).log() / temperature).masked_fill(absent, ABSENT)
    log_student = (at_least_float32(logits) / temperature).masked_fill(absent, ABSENT)
    return F.kl_div(log_student.log_softmax(-1), log_teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def distillation_loss(logits: Tensor, teacher_probabilities: Tensor, temperature: float) -> Tensor:
    """T² times the mean ``divergence``, a scalar; Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.

    The factor keeps the gradient's size independent of the temperature.
    """
    return temperature**2 * divergence(logits, teacher_probabilities, temperature).mean()


def released_divergence(logits: Tensor, teacher_probabilities: Tensor) -> Tensor:
    """What the released code of FREE minimises for a KL divergence, a scalar: its ``kl_div`` is given probabilities, not their logarithms.

    Its gradient is that of −mean p_student · p_teacher. The minimum is certainty in the teacher's first choice, not agreement. For
    comparison only.
    """
    return F.kl_div(logits.softmax(-1), teacher_probabilities.to(logits.dtype), reduction="none").mean()
