"""The pass through a stack of teachers can be compiled: it is one graph without interruption, and computes the same."""

import warnings

import pytest
import torch

from datafree.inversion.losses import statistics_distance
from datafree.inversion.stacked_objective import query
from datafree.zoo.teacher_stacks import TeacherStack
from tests.conftest import untrained_teacher

WARP = {"degrees": 15.0, "scale": 0.15, "shift": 0.1}


def stack(architecture):
    teachers = [
        untrained_teacher(f"teacher-{seed}", tuple("abcde"[:classes]), seed, architecture=architecture, width=4, size=16)
        for seed, classes in enumerate((3, 5))
    ]
    return TeacherStack.of(teachers, statistics_distance)


@pytest.mark.parametrize("architecture", ["conv4", pytest.param("resnet8", marks=pytest.mark.slow)])
def test_the_compiled_query_is_one_graph_and_computes_the_same(architecture):
    teachers, rng = stack(architecture), torch.Generator().manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own modules
        compiled = torch.compile(query, backend="aot_eager", fullgraph=True)  # graph of forward and backward pass; no code is generated
        for step in range(2):
            images = torch.randn(2, 6, 3, 16, 16, generator=rng).requires_grad_()
            amounts = torch.rand(2, 4, 6, generator=rng) if architecture == "conv4" else None
            given = (teachers, images, torch.tensor([[1, -2], [step, 0]]), amounts, WARP)
            results = []
            for compute in (query, compiled):
                logits, distances = compute(*given)
                loss = logits.clamp_min(-100).logsumexp(-1).sum() + distances.sum()
                results.append((logits, distances, torch.autograd.grad(loss, images)[0]))
            for single, together in zip(*results, strict=True):
                torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-6)
