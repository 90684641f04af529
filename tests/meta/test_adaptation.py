"""Task adaptation (inner loops of MAML and ANIL), in float64 where a derivative is checked."""

import pytest
import torch
from torch.nn import functional as F

from datafree.config import AdaptationConfig, AdaptedPart, BackboneConfig
from datafree.meta.adaptation import adapt, describe, fit_head, linear
from datafree.meta.maml import query_loss
from datafree.zoo.backbones import Backbone, build

WAY, SHOT, QUERY = 3, 2, 2
RULES = [AdaptationConfig(AdaptedPart.network, 10, 0.1), AdaptationConfig(AdaptedPart.head, 10, 0.1)]
BOTH = pytest.mark.parametrize("rule", RULES, ids=["network", "head"])


def backbone(name="conv4_strided") -> Backbone:
    """In training mode, with BatchNorm in every block."""
    return build(BackboneConfig(name, 4), 3, 16, seed=0).double().train()


def task(seed=0) -> torch.Tensor:
    """Views [way, shot + query, C, H, W] of classes that differ."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(WAY, 1, 3, 16, 16, generator=rng, dtype=torch.float64)
    return centres + 0.7 * torch.randn(WAY, SHOT + QUERY, 3, 16, 16, generator=rng, dtype=torch.float64)


def meta_gradient(network, rule, steps=2, second_order=True, views=None):
    loss, _ = query_loss(network, task() if views is None else views, SHOT, rule, steps, second_order)
    return torch.autograd.grad(loss, list(network.parameters()))


# ---- derivatives ------------------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", ["conv4_strided", "resnet8"])
def test_the_second_order_gradient_is_that_of_finite_differences_with_batch_norm(rule, name):
    network = backbone(name)
    gradients = meta_gradient(network, rule)
    rng = torch.Generator().manual_seed(1)
    for _ in range(4):
        direction = [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in network.parameters()]
        width = 1e-8  # small, because ReLU and pooling have kinks everywhere

        def at(distance, direction=direction):
            moved = backbone(name)
            with torch.no_grad():
                for parameter, part in zip(moved.parameters(), direction, strict=True):
                    parameter += distance * part
            return query_loss(moved, task(), SHOT, rule, 2, True)[0].item()

        difference = (at(width) - at(-width)) / (2 * width)
        claimed = sum((g * d).sum().item() for g, d in zip(gradients, direction, strict=True))
        assert claimed == pytest.approx(difference, rel=1e-4, abs=1e-6)


@BOTH
def test_the_first_order_gradient_differs_and_is_the_same_at_an_inner_step_of_zero(rule):
    network = backbone()
    first, second = (meta_gradient(network, rule, second_order=order) for order in (False, True))
    assert max((a - b).abs().max().item() for a, b in zip(first, second, strict=True)) > 1e-4
    # The head must not be zero: with zero weights every gradient of the backbone would vanish.
    no_steps = AdaptationConfig(rule.part, 10, 0.0)
    head = (torch.randn(WAY, network.feature_size).double(), torch.zeros(WAY).double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "datafree.meta.adaptation.zero_head",
            lambda way, features, like: (head[0].clone().requires_grad_(), head[1].clone().requires_grad_()),
        )
        first, second = (meta_gradient(network, no_steps, second_order=order) for order in (False, True))
    assert max(g.abs().max().item() for g in first) > 1e-3
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-15) for a, b in zip(first, second, strict=True))


def test_the_first_order_gradient_is_that_at_the_adapted_weights():
    network, rule, views = backbone(), RULES[0], task()
    adapted = adapted_network(network, rule, views)
    weights = {name: value.detach().requires_grad_() for name, value in adapted.weights.items()}
    logits = linear(torch.func.functional_call(network, weights, (views[:, SHOT:].flatten(0, 1),)), adapted.head)
    expected = torch.autograd.grad(F.cross_entropy(logits, labels(QUERY)), list(weights.values()))
    for result, gradient in zip(meta_gradient(network, rule, second_order=False), expected, strict=True):
        assert torch.allclose(result, gradient, rtol=1e-9, atol=1e-14)


# ---- the steps themselves ---------------------------------------------------------------------------------------------------------------


def labels(count):
    return torch.arange(WAY).repeat_interleave(count)


def adapted_network(network, rule, views, steps=2, order=None, way=WAY):
    weights = dict(network.named_parameters())
    support, target = views[:, :SHOT].flatten(0, 1), torch.arange(way).repeat_interleave(SHOT)
    return adapt(network, weights, support, target, way, rule, steps=steps, create_graph=False)


def test_steps_are_those_of_plain_gradient_descent_on_a_network_with_a_head():
    network, views, rule = backbone(), task(), RULES[0]
    logits = adapted_network(network, rule, views, steps=3).logits(network, views[:, SHOT:].flatten(0, 1))
    plain = backbone()
    head = torch.nn.Linear(plain.feature_size, WAY).double()
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimiser = torch.optim.SGD([*plain.parameters(), *head.parameters()], lr=rule.learning_rate)
    for _ in range(3):
        optimiser.zero_grad()
        F.cross_entropy(head(plain(views[:, :SHOT].flatten(0, 1))), labels(SHOT)).backward()
        optimiser.step()
    assert torch.allclose(logits, head(plain(views[:, SHOT:].flatten(0, 1))), rtol=1e-9)


def test_head_adaptation_does_not_change_the_backbone():
    network, views = backbone(), task()
    adapted = adapted_network(network, RULES[1], views, steps=5)
    assert all(adapted.weights[name] is parameter for name, parameter in network.named_parameters())
    features = network(views[:, :SHOT].flatten(0, 1)).detach()
    weight, bias = fit_head(features, labels(SHOT), WAY, RULES[1].learning_rate, 5)
    assert torch.allclose(weight, adapted.head[0])
    assert torch.allclose(bias, adapted.head[1])


@BOTH
def test_permuted_labels_permute_the_predictions(rule):
    network, views, order = backbone(), task(), torch.tensor([2, 0, 1])
    query = views[:, SHOT:].flatten(0, 1)
    plain = adapted_network(network, rule, views).logits(network, query)
    permuted = adapted_network(network, rule, views[order]).logits(network, query)
    assert torch.allclose(permuted, plain[:, order], rtol=1e-8, atol=1e-10)
    loss, _ = query_loss(network, views, SHOT, rule, 2, True)
    assert query_loss(network, views[order], SHOT, rule, 2, True)[0].item() == pytest.approx(loss.item(), rel=1e-9)


@BOTH
def test_more_steps_fit_the_support_better_and_none_is_at_chance(rule):
    network, views = backbone(), task()
    support = views[:, :SHOT].flatten(0, 1)
    losses = [
        F.cross_entropy(adapted_network(network, rule, views, steps=steps).logits(network, support), labels(SHOT)) for steps in range(4)
    ]
    assert losses[0].item() == pytest.approx(torch.tensor(3.0).log().item())
    assert losses[0] > losses[1] > losses[2] > losses[3]


def test_half_precision_features_are_classified_in_float32():
    features = torch.randn(6, 8).bfloat16()
    weight, _ = fit_head(features, labels(SHOT), WAY, 0.1, 2)
    assert weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(features, (weight, torch.zeros(WAY))).dtype == torch.float32


def test_the_description_names_the_steps_and_the_adapted_part():
    assert describe(AdaptationConfig()) == "nearest centroid"
    assert describe(RULES[0]) == "10 gradient steps of 0.1 on the whole network"
    assert describe(AdaptationConfig(AdaptedPart.head, 5, 0.01)) == "5 gradient steps of 0.01 on the head"
