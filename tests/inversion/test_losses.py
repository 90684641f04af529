import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.inversion.losses import (
    BatchNormMatch,
    BatchStatistics,
    batch_norm_distance,
    boundary,
    diversity_hinge,
    jensen_shannon,
    soft_cross_entropy,
    squared_norm,
    total_variation,
    within_class_distance,
)


def statistics(seed, channels=5):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(channels, generator=rng, dtype=torch.float64), torch.rand(channels, generator=rng, dtype=torch.float64) + 0.1]


def test_equal_statistics_have_distance_and_gradient_zero():
    mean, variance = (value.requires_grad_() for value in statistics(0))
    distance = batch_norm_distance(mean, variance, mean.detach(), variance.detach())
    assert distance == 0
    distance.backward()
    assert torch.equal(mean.grad, torch.zeros_like(mean))
    assert torch.equal(variance.grad, torch.zeros_like(variance))


@given(st.integers(0, 99))
def test_the_batch_norm_distance_is_its_formula(seed):
    (mean, variance), (running_mean, running_variance) = statistics(seed), statistics(seed + 100)
    expected = 0.0
    for m, v, rm, rv in zip(mean.tolist(), variance.tolist(), running_mean.tolist(), running_variance.tolist(), strict=True):
        expected += ((m - rm) ** 2 / rv + (v**0.5 / rv**0.5 - 1) ** 2) / len(mean)
    distance = batch_norm_distance(mean, variance, running_mean, running_variance).item()
    assert distance == pytest.approx(expected, rel=1e-12)
    scaled = batch_norm_distance(7 * mean, 49 * variance, 7 * running_mean, 49 * running_variance).item()
    assert scaled == pytest.approx(expected, rel=1e-12)  # invariant to the activations' scale


def test_a_dead_channel_gives_a_finite_distance_and_gradient():
    mean, variance = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    distance = batch_norm_distance(mean, variance, torch.zeros(2), torch.tensor([0.0, 1.0]))
    distance.backward()
    assert torch.isfinite(distance)
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(variance.grad).all()


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 3), torch.nn.BatchNorm2d(5)
    ).eval()


def test_a_match_is_the_mean_distance_over_the_layers_inputs():
    net = network()
    for layer in (net[1], net[4]):
        layer.running_mean.uniform_(-1, 1)
        layer.running_var.uniform_(0.5, 2)
    images = torch.randn(6, 3, 8, 8)
    with BatchNormMatch(net) as match:
        net(images)
        distance = match.distance()
        net(2 * images)
        other = match.distance()
    expected = []
    for layer, inputs in ((net[1], net[:1](images)), (net[4], net[:4](images))):
        flat = inputs.transpose(0, 1).flatten(1)
        expected.append(batch_norm_distance(flat.mean(1), flat.var(1, unbiased=False), layer.running_mean, layer.running_var))
    assert torch.allclose(distance, sum(expected) / 2, rtol=1e-5)
    assert not torch.allclose(other, distance)  # only the second pass counts


def test_a_match_is_differentiable_with_respect_to_the_images():
    images = torch.randn(4, 3, 8, 8, requires_grad=True)
    with BatchNormMatch(network()) as match:
        network()(images)
        assert match.distance() == 0  # hooks are on another network's layers
    net = network()
    with BatchNormMatch(net) as match:
        net(images)
        match.distance().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (7, 2), (3, 4, 6)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_batch_statistics_are_mean_and_variance_over_all_but_the_channels(shape, dtype):
    inputs = (3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    mean, variance = BatchStatistics.apply(inputs)
    rows = inputs.double().transpose(0, 1).flatten(1)
    assert mean.dtype == variance.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    torch.testing.assert_close(mean.double(), rows.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), rows.var(1, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_batch_statistics_equals_finite_differences(memory_format):
    inputs = torch.randn(3, 2, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=memory_format
    )
    assert torch.autograd.gradcheck(BatchStatistics.apply, inputs.requires_grad_())


def test_hooks_are_removed_at_the_end_of_the_block_after_errors_too():
    net = network()

    def hooks():
        return sum(len(layer._forward_pre_hooks) for layer in net)

    match = BatchNormMatch(net)
    for _ in range(2):
        with match:
            assert hooks() == 2
        assert hooks() == 0
    with pytest.raises(ZeroDivisionError), match:
        raise ZeroDivisionError
    with pytest.raises(RuntimeError), match:
        net(torch.zeros(1, 1, 8, 8))  # fails within a forward pass
    assert hooks() == 0
    with match:
        assert match.distance() == 0  # distances of the failed pass are discarded


def test_a_network_without_running_statistics_has_distance_zero():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, track_running_stats=False))
    with BatchNormMatch(net) as match:
        net(torch.randn(2, 3, 8, 8))
        assert match.distance() == 0


labelled = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@given(labelled, st.integers(0, 99))
def test_the_distance_within_classes_equals_a_double_loop(labels, seed):
    images = torch.randn(len(labels), 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pairs = [
        (images[i] - images[j]).abs().mean().item() for i in range(len(labels)) for j in range(i) if labels[i] == labels[j]
    ]  # fmt: skip
    expected = sum(pairs) / len(pairs) if pairs else 0.0
    assert within_class_distance(images, torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-9)


@given(labelled, st.permutations(range(9)), st.integers(0, 99))
def test_the_order_of_the_images_does_not_matter(labels, order, seed):
    images = torch.randn(len(labels), 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    order = [place for place in order if place < len(labels)]
    labels = torch.tensor(labels)
    assert torch.allclose(within_class_distance(images, labels), within_class_distance(images[order], labels[order]))


def test_the_hinge_is_zero_beyond_the_margin_and_rises_with_similarity():
    images, labels = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    distance = within_class_distance(images, labels).item()
    assert diversity_hinge(images, labels, distance * 0.99) == 0
    assert diversity_hinge(images, labels, distance + 0.25).item() == pytest.approx(0.25, abs=1e-6)
    same = images[:1].expand(8, -1, -1, -1)
    assert diversity_hinge(same, labels, 0.6).item() == pytest.approx(0.6)
    assert diversity_hinge(images[:2], labels[:2], 0.6).item() == pytest.approx(0.6)  # no pair within a class


def test_a_gradient_step_on_the_hinge_increases_the_distance():
    images = (0.01 * torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    labels = torch.arange(6) % 2
    before = diversity_hinge(images, labels, 0.6)
    before.backward()
    moved = images.detach() - 0.5 * images.grad
    assert diversity_hinge(moved, labels, 0.6) < before
    identical = torch.zeros(4, 1, 2, 2, requires_grad=True)
    diversity_hinge(identical, torch.zeros(4, dtype=torch.int64), 0.6).backward()
    assert torch.isfinite(identical.grad).all()


def test_soft_cross_entropy_is_its_formula_and_minimal_at_equality():
    rng = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(4, 3, generator=rng), torch.rand(4, 3, generator=rng)
    targets = targets / targets.sum(1, keepdim=True)
    expected = 0.0
    for row, target in zip(logits.double().tolist(), targets.tolist(), strict=True):
        normaliser = math.log(sum(math.exp(z) for z in row))
        expected -= sum(t * (z - normaliser) for t, z in zip(target, row, strict=True)) / 4
    assert soft_cross_entropy(logits, targets).item() == pytest.approx(expected, rel=1e-5)
    entropy = -(targets * targets.log()).sum(1).mean()
    assert soft_cross_entropy(targets.log() + 5, targets).item() == pytest.approx(entropy.item(), rel=1e-5)
    assert soft_cross_entropy(logits, targets) > entropy
    one_hot = torch.eye(3)[[0, 2, 1, 1]]
    assert torch.allclose(soft_cross_entropy(logits, one_hot), torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1, 1])))


def test_total_variation_is_its_formula():
    images = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for down, right in ((1, 0), (0, 1), (1, 1), (1, -1)):
        differences = [
            (images[b, c, y + down, x + right] - images[b, c, y, x]).item() ** 2
            for b in range(2) for c in range(3) for y in range(4) for x in range(5)
            if y + down < 4 and 0 <= x + right < 5
        ]  # fmt: skip
        expected += sum(differences) / len(differences)
    assert total_variation(images).item() == pytest.approx(expected, rel=1e-5)


def test_priors_do_not_depend_on_the_number_of_images_and_have_known_values():
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for prior in (total_variation, squared_norm):
        assert prior(images.repeat(3, 1, 1, 1)).item() == pytest.approx(prior(images).item(), rel=1e-5)
        assert prior(3 * images).item() == pytest.approx(9 * prior(images).item(), rel=1e-5)
        assert prior(torch.zeros(2, 3, 8, 8)) == 0
    assert total_variation(torch.full((2, 3, 8, 8), 0.7)) == 0
    assert squared_norm(torch.full((2, 3, 8, 8), 0.5)) == 0.25


def test_the_boundary_term_is_the_divergence_where_predicted_classes_agree():
    rng = torch.Generator().manual_seed(2)
    teacher, student = torch.randn(20, 3, generator=rng), torch.randn(20, 3, generator=rng)
    expected, agreed = 0.0, 0
    for t, s in zip(teacher.softmax(1).double(), student.softmax(1).double(), strict=True):
        if t.argmax() == s.argmax():
            agreed += 1
            expected -= (t * (t / s).log()).sum().item() / 20
    assert 0 < agreed < 20
    assert boundary(teacher, student).item() == pytest.approx(expected, rel=1e-4)
    assert boundary(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    boundary(torch.tensor([[0.0, 1.0]]), student).backward()  # different predicted classes: no gradient
    assert torch.equal(student.grad, torch.zeros(1, 2))


def test_jensen_shannon_is_0_at_equality_1_when_disjoint_and_symmetric():
    rng = torch.Generator().manual_seed(0)
    one, two = torch.randn(5, 4, generator=rng), torch.randn(5, 4, generator=rng)
    assert jensen_shannon(one, one + 3).item() == pytest.approx(0, abs=1e-6)
    certain = torch.tensor([[50.0, 0.0, 0.0]])
    assert jensen_shannon(certain, certain.roll(1, 1)).item() == pytest.approx(1)
    assert jensen_shannon(one, two).item() == pytest.approx(jensen_shannon(two, one).item())
    p, q = one.softmax(1).double(), two.softmax(1).double()
    middle = (p + q) / 2
    expected = ((p * (p / middle).log2()).sum(1) + (q * (q / middle).log2()).sum(1)).mean() / 2
    assert jensen_shannon(one, two).item() == pytest.approx(expected.item(), rel=1e-5)
