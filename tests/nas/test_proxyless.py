from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from datafree.nas import proxyless
from datafree.nas.relaxation import Alphas
from datafree.nas.slots import Slot
from datafree.nas.spaces.nasbench201.space import NasBench201Space
from datafree.nas.supernet import new_supernet

SPACE = NasBench201Space(4, 1, 8)


class TwoSlots:
    """The choices of a tiny supernet: two slots in sequence."""

    choices = (("a", "b", "c"), ("d", "e"))


def _alphas(space, seed: int = 3) -> Alphas:
    alphas, rng = Alphas(space, 0).double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for alpha in alphas.slots:
            alpha.add_(torch.randn(len(alpha), generator=rng, dtype=torch.float64))
    return alphas


def _tiny() -> tuple[list[Slot], torch.Tensor]:
    torch.manual_seed(0)
    slots = [Slot({name: nn.Linear(4, 4, bias=False).double() for name in options}) for options in TwoSlots.choices]
    return slots, torch.randn(5, 4, dtype=torch.float64)


def _run(slots, path, x):
    for slot, choice in zip(slots, path, strict=True):
        x = slot(x, choice)
    return x


def test_a_gates_gradient_is_the_published_formula():
    """∂L/∂α_i = Σ_j ⟨o_j, ∂L/∂out⟩ p_j (δ_ij − p_i), with the output o_j of every option computed separately."""
    slots, x = _tiny()
    alphas = _alphas(TwoSlots)
    gates = proxyless.draw_gates(alphas, 3, torch.Generator().manual_seed(0))
    loss = _run(slots, gates.path, x).square().sum()
    gradients = torch.autograd.grad(loss, list(alphas.slots))
    for number, options in enumerate(TwoSlots.choices):
        active = [max(choice, key=lambda name: choice[name].item()) for choice in gates.path]
        before = _run(slots[:number], active[:number], x)
        outputs = {name: slots[number](before, name).detach() for name in options}
        out = outputs[active[number]].clone().requires_grad_()
        upstream = torch.autograd.grad(_run(slots[number + 1 :], active[number + 1 :], out).square().sum(), out)[0]
        by_gate = torch.stack([(outputs[name] * upstream).sum() for name in options])
        p = alphas.slots[number].detach().softmax(0)
        expected = torch.stack([sum(by_gate[j] * p[j] * ((i == j) - p[i].item()) for j in range(len(p))) for i in range(len(p))])
        torch.testing.assert_close(gradients[number], expected)


def test_over_all_paths_the_gates_give_the_gradient_of_the_expected_loss():
    """All six paths of a tiny supernet whose loss is linear in every slot, for which the estimate has no bias."""
    slots, x = _tiny()
    alphas = _alphas(TwoSlots)

    def loss(path):
        return _run(slots, path, x).sum()

    probabilities = alphas.probabilities()
    places = list(itertools.product(range(3), range(2)))
    expected_loss = sum(
        probabilities[0][i] * probabilities[1][j] * loss((TwoSlots.choices[0][i], TwoSlots.choices[1][j])).detach() for i, j in places
    )
    expected = torch.autograd.grad(expected_loss, list(alphas.slots))
    total = [torch.zeros_like(alpha) for alpha in alphas.slots]
    for i, j in places:
        path = []
        for alpha, options, opened in zip(alphas.slots, TwoSlots.choices, (i, j), strict=True):
            share = alpha.softmax(0)
            gates = nn.functional.one_hot(torch.tensor(opened), len(options)) + share - share.detach()
            path.append(dict(zip(options, gates.unbind(), strict=True)))
        probability = (probabilities[0][i] * probabilities[1][j]).item()
        for whole, part in zip(total, torch.autograd.grad(loss(path), list(alphas.slots)), strict=True):
            whole += probability * part
    for got, wanted in zip(total, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_one_gate_is_open_and_two_options_are_compared():
    alphas = _alphas(SPACE)
    gates = proxyless.draw_gates(alphas, 2, torch.Generator().manual_seed(1))
    for choice, some, options in zip(gates.path, gates.compared, SPACE.choices, strict=True):
        assert [options[place] for place in some] == list(choice)
        assert sorted(value.item() for value in choice.values()) == pytest.approx([0, 1])


def test_options_are_opened_as_often_as_they_are_probable():
    alphas, rng = _alphas(SPACE), torch.Generator().manual_seed(0)
    opened = torch.zeros(5)
    for _ in range(2000):
        choice = proxyless.draw_gates(alphas, 5, rng).path[0]
        opened[SPACE.choices[0].index(max(choice, key=lambda name: choice[name].item()))] += 1
    torch.testing.assert_close(opened / 2000, alphas.probabilities()[0].detach().float(), atol=0.04, rtol=0)


def test_open_gates_give_the_features_of_their_path():
    supernet, alphas = new_supernet(SPACE, [3], 0, "cpu").eval(), Alphas(SPACE, 0)
    gates = proxyless.draw_gates(alphas, 2, torch.Generator().manual_seed(1))
    images = torch.randn(2, 3, 8, 8)
    active = [max(choice, key=lambda name: choice[name].item()) for choice in gates.path]
    torch.testing.assert_close(supernet.backbone(images, gates.path), supernet.backbone(images, active))


def test_the_expected_cost_is_the_mean_over_all_cells():
    alphas = _alphas(SPACE)
    probabilities = [p.detach() for p in alphas.probabilities()]
    weights = [dict(zip(options, p.tolist(), strict=True)) for options, p in zip(SPACE.choices, probabilities, strict=True)]
    mean = 0.0
    for genotype in SPACE.enumerate():
        probability = 1.0
        for slot, option in zip(weights, genotype, strict=True):
            probability *= slot[option]
        mean += probability * SPACE.macs(genotype)
    assert proxyless.expected_cost(proxyless.cost_table(SPACE, SPACE.macs), probabilities).item() == pytest.approx(mean)


def test_the_gradient_of_the_expected_cost_favours_cheap_options():
    alphas = _alphas(SPACE)
    table = proxyless.cost_table(SPACE, SPACE.macs)
    gates = proxyless.draw_gates(alphas, 2, torch.Generator().manual_seed(0))
    expected = proxyless.expected_cost(table, gates.expected)
    assert expected.item() == pytest.approx(proxyless.expected_cost(table, [p.detach() for p in alphas.probabilities()]).item())
    gradients = torch.autograd.grad(expected, list(alphas.slots))
    for gradient, some, added in zip(gradients, gates.compared, table[1], strict=True):
        assert torch.count_nonzero(gradient) <= 2
        cheap, dear = sorted(some.tolist(), key=lambda place: added[place])
        assert gradient[cheap] <= 0 <= gradient[dear]


def test_a_step_leaves_the_probabilities_of_other_options_unchanged():
    alphas = _alphas(SPACE)
    before = [alpha.detach().clone() for alpha in alphas.slots]
    compared = [torch.tensor([1, 3])] * 6
    with torch.no_grad():
        for alpha in alphas.slots:
            alpha[1] += 0.7
            alpha[3] -= 0.2
    proxyless.restore_total(alphas, before, compared)
    for old, new in zip(before, alphas.probabilities(), strict=True):
        others = [0, 2, 4]
        torch.testing.assert_close(new[others], old.softmax(0)[others])
        assert new[1] > old.softmax(0)[1]
