import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree import devices
from datafree.config import InversionConfig
from datafree.data.images import ImageSet
from datafree.inversion.generator import new_generator
from datafree.inversion.inner_loop import InnerLoopConfig, draw_pool, run_inner_loop
from datafree.inversion.losses import BatchNormMatch
from datafree.tasks import reliability as module
from datafree.tasks.pools import Pool
from datafree.tasks.reliability import (
    EXCUSE,
    FLOOR,
    agreement,
    balanced_rows,
    compactness,
    excuse,
    judge,
    linear_kernel,
    look,
    middle_and_deviation,
    of_small_sample,
    recovery,
    teacher_weights,
    unrecognised,
)
from datafree.zoo.backbones import Normalise
from datafree.zoo.manifest import Architecture, Entry
from datafree.zoo.teachers import Teacher, empty_network, freeze, soft_labels
from datafree.zoo.training import train_classifier


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- the signs, by formulas of their own ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 50))
def test_rows_are_distinct_and_even_over_the_classes(labels, count):
    labels = torch.tensor(labels)
    rows = balanced_rows(labels, count, generator())
    assert len(rows) == min(count, len(labels)) == len(rows.unique())
    taken = {int(label): int((labels[rows] == label).sum()) for label in labels.unique()}
    for label, number in taken.items():
        if number < int((labels == label).sum()):  # it has more to give: no class got more than one beyond it
            assert number >= max(taken.values()) - 1


def test_the_kernel_is_of_centred_features_with_a_mean_diagonal_of_one():
    features = torch.randn(6, 3, generator=generator())
    kernel = linear_kernel(features)
    assert torch.allclose(kernel.sum(0), torch.zeros(6), atol=1e-5)
    assert kernel.diagonal().mean().item() == pytest.approx(1)
    assert torch.allclose(linear_kernel(5 * features + 3), kernel, atol=1e-5)
    assert torch.equal(linear_kernel(torch.ones(4, 3)), torch.zeros(4, 4))


def test_agreement_is_that_of_ridge_regression_on_the_scaled_features(monkeypatch):
    monkeypatch.setattr(module, "RIDGE", 0.1)
    rng = generator(1)
    features = [torch.randn(40, 5, generator=rng) for _ in range(3)]
    logits = features[1] @ torch.randn(5, 4, generator=rng) + torch.randn(40, 4, generator=rng)
    owner, fold = torch.arange(40) % 3, torch.randint(4, (40,), generator=rng)
    found = agreement([linear_kernel(f) for f in features], 0, logits, owner, fold)

    scaled = [f - f.mean(0) for f in features]
    scaled = torch.cat([f * (len(f) / f.square().sum() / 2).sqrt() for f in scaled[1:]], 1).double()
    target = (logits - logits.mean(1, keepdim=True)).double()
    wrong = total = 0
    for held in range(4):
        known, asked = (owner != 0) & (fold != held), (owner != 0) & (fold == held)
        mean = target[known].mean(0)
        x = scaled[known]
        weights = torch.linalg.inv(x.T @ x + 0.1 * torch.eye(10)) @ x.T @ (target[known] - mean)
        wrong += (target[asked] - mean - scaled[asked] @ weights).square().sum().item()
        total += (target[asked] - mean).square().sum().item()
    assert found == pytest.approx(1 - wrong / total, abs=1e-4)
    assert 0.3 < found < 0.98


def test_agreement_is_full_for_what_the_others_know_and_none_for_noise():
    rng = generator(2)
    shared = torch.randn(200, 6, generator=rng)
    kernels = [linear_kernel(shared @ torch.randn(6, 8, generator=rng)) for _ in range(3)]
    owner, fold = torch.arange(200) % 3, torch.arange(200) // 3 % 4
    assert agreement(kernels, 0, shared @ torch.randn(6, 5, generator=rng), owner, fold) > 0.99
    assert 0 <= agreement(kernels, 0, torch.randn(200, 5, generator=rng), owner, fold) < 0.1
    heavy = 100 * torch.randn(200, 5, generator=rng).pow(9)  # a few outliers, whose fit is worse than none
    assert agreement(kernels, 0, heavy, owner, fold) == 0
    logits = shared @ torch.randn(6, 5, generator=rng)
    same = agreement(kernels, 0, logits + torch.randn(200, 1, generator=rng), owner, fold)  # a shift of all logits means nothing
    assert same == pytest.approx(agreement(kernels, 0, logits, owner, fold), abs=1e-5)


def test_what_a_teacher_says_of_its_own_pool_does_not_count():
    rng = generator(3)
    shared = torch.randn(90, 6, generator=rng)
    kernels = [linear_kernel(shared) for _ in range(3)]
    owner, fold = torch.arange(90) % 3, torch.randint(4, (90,), generator=rng)
    logits = shared @ torch.randn(6, 5, generator=rng)
    spoilt = torch.where((owner == 0)[:, None], 100 * torch.randn(90, 5, generator=rng), logits)
    assert agreement(kernels, 0, spoilt, owner, fold) == pytest.approx(agreement(kernels, 0, logits, owner, fold))


def test_compactness_is_the_share_of_variance_between_classes():
    labels = torch.arange(3000) % 3
    rng = generator(4)
    centres = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])  # variance 4/3 per direction
    features = centres[labels] + torch.randn(3000, 2, generator=rng)
    assert compactness(features, labels) == pytest.approx((8 / 3) / (8 / 3 + 2), abs=0.02)
    assert compactness(centres[labels], labels) == pytest.approx(1)
    assert compactness(torch.randn(60, 2, generator=rng), torch.arange(60) % 3) < 0.1  # no more than chance
    assert compactness(torch.zeros(6, 2), torch.arange(6) % 3) == 0
    assert compactness(torch.randn(5, 2, generator=rng), torch.zeros(5, dtype=torch.int64)) == 0


@pytest.mark.parametrize("classes", [2, 5])
def test_recovery_is_0_for_guessing_and_1_for_certainty(classes):
    labels = torch.arange(10) % classes
    assert recovery(torch.zeros(10, classes), labels) == pytest.approx(0, abs=1e-6)
    assert recovery(100.0 * torch.nn.functional.one_hot(labels, classes), labels) == pytest.approx(1)


def test_looking_is_the_teachers_own_view(teachers, pools):
    features, logits = look(teachers[0], pools[1].images[:5], "cpu", batch_size=2)
    assert torch.allclose(features, teachers[0].features(pools[1].images[:5]), atol=1e-5)
    assert torch.allclose(logits, teachers[0].network(teachers[0].normalise(pools[1].images[:5])), atol=1e-5)


def test_strangeness_is_the_distance_of_the_others_images(teachers, pools):
    verdicts = teacher_weights(pools[:2], teachers[:2], seed=0)
    with BatchNormMatch(teachers[0].network) as match:
        look(teachers[0], pools[1].images, "cpu")  # all 32 of them: no more are asked for
        assert verdicts[0].strangeness == pytest.approx(match.distance().item(), rel=1e-4)
    (alone,) = teacher_weights(pools[:1], teachers[:1], seed=0)
    assert alone.strangeness is None


# ---- the verdict ------------------------------------------------------------------------------------------------------------------------


def signs_of(zoo: list[tuple]) -> tuple[dict[str, list[float]], list[float | None]]:
    *signs, strangeness = map(list, zip(*zoo, strict=True))
    return dict(zip(("agreement", "compactness", "recovery"), signs, strict=True)), strangeness


GOOD = [(0.88 + 0.01 * (i % 3), 0.8 + 0.01 * (i % 4), 0.97 + 0.005 * (i % 2), 0.03) for i in range(12)]
BAD = {
    "shuffled": (0.6, 0.79, 0.95, 0.04),
    "learned by heart": (0.4, 0.6, 0.97, 0.04),
    "random": (0.7, 0.3, 0.0, 1.0),
    "shuffled, of another domain": (0.6, 0.65, 0.85, 0.6),
    "shuffled, without BatchNorm": (0.6, 0.65, 0.85, None),
}
ODD = {
    "of another domain": (0.4, 0.75, 0.98, 0.4),
    "weak": (0.87, 0.8, 0.5, 0.03),
    "of two classes": (0.93, 0.6, 1.0, 0.03),
    "without BatchNorm": (0.7, 0.78, 0.97, None),
}


def weights_of(zoo, names=None):
    return {trust.name: trust for trust in judge(names or [str(i) for i in range(len(zoo))], *signs_of(zoo))}


def test_an_even_zoo_is_trusted():
    verdicts = weights_of(GOOD).values()
    assert all(trust.weight == 1 and not trust.reason and not trust.warning for trust in verdicts)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("count", [1, 5])
def test_bad_teachers_are_dropped_with_a_reason_and_the_others_kept(kind, count):
    names = [f"good-{i}" for i in range(12)] + [f"bad-{i}" for i in range(count)]
    verdicts = weights_of(GOOD + [BAD[kind]] * count, names)
    for name, trust in verdicts.items():
        assert trust.weight == (0 if name.startswith("bad") else 1), trust
        assert trust.warning.startswith(f"teacher {name} is dropped: ") if name.startswith("bad") else not trust.warning
    expected = "it does not recognise its own pool (recovery 0.00)" if kind == "random" else "agreement 0."
    assert expected in verdicts["bad-0"].warning
    assert "\n" not in verdicts["bad-0"].warning


@pytest.mark.parametrize("kind", ODD)
def test_what_makes_a_teacher_odd_does_not_condemn_it(kind):
    assert all(trust.weight == 1 for trust in weights_of([*GOOD, ODD[kind], ODD[kind]]).values())


def test_the_more_it_disagrees_the_less_a_teacher_is_asked():
    found = [weights_of([*GOOD, (0.89 - depth, 0.8, 0.97, 0.03)])["12"] for depth in (0.05, 0.13, 0.25)]
    assert found[0].weight == 1 and found[2].weight == 0
    assert 0 < found[1].weight < 1
    assert found[1].warning == f"teacher 12 is asked with weight {found[1].weight:.2f}: agreement 0.76 (usual in this zoo: 0.89)"


def test_the_fewer_teachers_the_more_agreement_must_differ_to_decide_alone():
    apart = (0.74, 0.8, 0.97, 0.03)
    assert weights_of([*GOOD[:6], apart])["6"].weight == 1
    assert weights_of([*GOOD * 3, apart])["36"].weight == 0
    worse = (0.74, 0.6, 0.8, 0.03)  # the other signs are low, too
    assert weights_of([*GOOD[:6], worse])["6"].weight == 0


@pytest.mark.parametrize("count", [4, 9, 50])
def test_a_distance_from_few_values_is_as_improbable_as_the_one_it_becomes(count):
    values = [of_small_sample(distance, count) for distance in (-8.0, -3.0, 0.0, 2.0, math.inf)]
    assert values == sorted(values) and values[2] == pytest.approx(0, abs=1e-9) and values[4] == math.inf
    assert -8 < values[0] < -1 and values[1] > -3 and values[3] < 2
    assert of_small_sample(-2.5, 10**6) == pytest.approx(-2.5, abs=1e-4)


def test_a_teacher_whose_agreement_is_usual_is_kept_whatever_its_pool_is_like():
    assert weights_of([*GOOD, (0.89, 0.5, 0.5, 0.03)])["12"].weight == 1


def test_strangeness_excuses_by_factors_of_ten():
    values = excuse([0.01, 0.02, 0.02, 0.2, 2.0, None])
    assert values == pytest.approx([0, 0, 0, EXCUSE, 2 * EXCUSE, math.inf])
    assert excuse([None, None]) == [math.inf, math.inf]


def test_few_teachers_are_not_compared_but_an_untrained_one_is_dropped():
    verdicts = list(weights_of([GOOD[0], BAD["shuffled"], BAD["random"]]).values())
    assert [trust.weight for trust in verdicts] == [1, 1, 0]
    assert [trust.score for trust in verdicts] == [0, 0, 0]


def test_where_most_pools_are_not_recognised_nobody_is_dropped_for_it():
    for random, fault in ((7, True), (6, False)):
        verdicts = list(weights_of([*GOOD[:6], *[BAD["random"]] * random]).values())
        assert unrecognised(verdicts) is fault
        assert [trust.weight for trust in verdicts[6:]] == [float(fault)] * random


@given(st.permutations(range(14)))
def test_the_order_of_the_zoo_does_not_matter(order):
    zoo = [*GOOD, BAD["shuffled"], ODD["weak"]]
    straight = judge([str(i) for i in range(14)], *signs_of(zoo))
    mixed = judge([str(i) for i in order], *signs_of([zoo[i] for i in order]))
    assert {t.name: t.weight for t in mixed} == {t.name: t.weight for t in straight}


def test_deviations_are_those_of_the_upper_half():
    middle, deviation = middle_and_deviation([1.0, 1.8, 1.1, 1.4, 1.2])
    assert middle == 1.2
    assert deviation == pytest.approx(1.4826 * 0.2)  # above the median: 0, 0.2, 0.6
    assert middle_and_deviation([0.5] * 5) == (0.5, FLOOR)
    assert middle_and_deviation([]) == (0, 1)


# ---- a small zoo, from training to verdict ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(make_images):
    """Seven teachers of four classes, trained on real labels; one on labels at random; one untrained. Each with a recovered pool."""
    images, labels = make_images(28, 40, 16, 3, noise=0.12)
    start = new_generator(latent=16, width=16, classes=4, channels=3, size=16, seed=0)
    teachers, pools = [], []
    for number, kind in enumerate(["good"] * 7 + ["shuffled", "random"]):
        own = ImageSet(images, labels, tuple(map(str, range(28)))).of_classes([(4 * number + i) % 28 for i in range(4)])
        if kind == "shuffled":
            order = torch.randperm(len(own.labels), generator=devices.generator(0, "order"))
            own = ImageSet(own.images, own.labels[order], own.classes)
        entry = Entry(name=f"{kind}-{number}", architecture=Architecture("conv4", 16), input=[3, 16, 16])
        network = empty_network(entry, 4, number)
        normalise = Normalise([0.5] * 3, [0.25] * 3)
        if kind != "random":
            steps = 400 if kind == "shuffled" else 120  # labels without meaning are learned by heart, which takes longer
            train_classifier(
                network, normalise, own, steps=steps, batch_size=32, learning_rate=0.01, seed=number, device=torch.device("cpu"), label=kind
            )
        teacher = Teacher(entry.name, freeze(network), normalise, own.classes, (3, 16, 16))
        rng = devices.generator(number, "draw")
        shared = InversionConfig(shift=1, augmentation=0.0)
        adapted = run_inner_loop(start, teacher, InnerLoopConfig(40, 0.01, 32), shared, seed=number).generator
        found, names = draw_pool(adapted, teacher, 20, 40, rng)
        teachers.append(teacher)
        pools.append(Pool(found, names, soft_labels(teacher, found), own.classes))
    return teachers, pools


@pytest.mark.parametrize("seed", [0, 1])
def test_a_teacher_of_random_labels_and_an_untrained_one_are_found(zoo, seed):
    teachers, pools = zoo
    verdicts = teacher_weights(pools, teachers, seed=seed)
    assert [trust.name for trust in verdicts] == [teacher.name for teacher in teachers]
    for trust in verdicts:
        assert trust.weight > 0.5 if trust.name.startswith("good") else trust.weight == 0, trust


def test_the_same_seed_gives_the_same_verdict_and_teachers_stay_as_they_are(zoo, state_of, assert_same_state):
    teachers, pools = zoo
    before = [state_of(teacher.network) for teacher in teachers]
    first = teacher_weights(pools, teachers, seed=3)
    assert teacher_weights(pools, teachers, seed=3) == first
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)


def test_teachers_of_different_inputs_are_compared(teachers, pools, make_teacher):
    other = make_teacher("fourth", ("a", "b"), 4, size=24)
    images = torch.randint(0, 256, (10, 3, 24, 24), dtype=torch.uint8, generator=generator())
    verdicts = teacher_weights([*pools, Pool(images, torch.arange(10) % 2, torch.empty(0), ("a", "b"))], [*teachers, other], seed=0)
    assert [trust.name for trust in verdicts] == ["first", "second", "third", "fourth"]
    assert all(0 <= trust.weight <= 1 and trust.agreement <= 1 and 0 <= trust.compactness <= 1 for trust in verdicts)
    assert dataclasses.asdict(verdicts[0]).keys() >= {"name", "weight", "score", "reason"}
