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
from datafree.inversion.inner_loop import InnerLoopConfig, balanced_labels, draw_images
from datafree.inversion.losses import BatchNormMatch
from datafree.tasks.pools import Pool
from datafree.tasks.reliability import (
    DOMAIN_TOLERANCE,
    SMALLEST_DEVIATION,
    assess,
    domain_tolerances,
    median_and_deviation,
    most_pools_unrecognised,
    normal_score,
    teacher_reliability,
)
from datafree.tasks.reliability_measures import features_and_logits
from datafree.zoo.backbones import Normalise
from datafree.zoo.manifest import Architecture, Entry
from datafree.zoo.teachers import Teacher, empty_network, freeze, soft_labels
from datafree.zoo.training import train_classifier
from tests.single_rows import inner_loop

CPU = torch.device("cpu")


def test_the_statistics_distance_is_that_of_the_others_images(teachers, pools):
    results = teacher_reliability(pools[:2], teachers[:2], seed=0)
    with BatchNormMatch(teachers[0].network) as match:
        features_and_logits(teachers[0], pools[1].images, "cpu")  # all 32 images: the sample would take up to 64
        assert results[0].statistics_distance == pytest.approx(match.distance().item(), rel=1e-4)
    (single,) = teacher_reliability(pools[:1], teachers[:1], seed=0)
    assert single.statistics_distance is None


# ---- the decision -----------------------------------------------------------------------------------------------------------------------


# A teacher is (agreement, compactness, recovery, statistics distance).
GOOD = [(0.88 + 0.01 * (i % 3), 0.8 + 0.01 * (i % 4), 0.97 + 0.005 * (i % 2), 0.03) for i in range(12)]
BAD = {
    "shuffled": (0.6, 0.79, 0.95, 0.04),
    "memorised": (0.4, 0.6, 0.97, 0.04),
    "random": (0.7, 0.3, 0.0, 1.0),
    "shuffled, of another domain": (0.6, 0.65, 0.85, 0.6),
    "shuffled, without BatchNorm": (0.6, 0.65, 0.85, None),
}
UNUSUAL_BUT_SOUND = {
    "of another domain": (0.4, 0.75, 0.98, 0.4),
    "weak": (0.87, 0.8, 0.5, 0.03),
    "of two classes": (0.93, 0.6, 1.0, 0.03),
    "without BatchNorm": (0.7, 0.78, 0.97, None),
}


def assessed(zoo, names=None):
    """Name → reliability."""
    *measures, distances = map(list, zip(*zoo, strict=True))
    by_measure = dict(zip(("agreement", "compactness", "recovery"), measures, strict=True))
    return {result.name: result for result in assess(names or [str(i) for i in range(len(zoo))], by_measure, distances)}


def test_all_teachers_of_a_uniform_zoo_have_full_weight():
    results = assessed(GOOD).values()
    assert all(result.weight == 1 and not result.reason and not result.warning for result in results)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("count", [1, 5])
def test_bad_teachers_are_dropped_with_a_reason_and_the_others_kept(kind, count):
    names = [f"good-{i}" for i in range(12)] + [f"bad-{i}" for i in range(count)]
    results = assessed(GOOD + [BAD[kind]] * count, names)
    for name, result in results.items():
        assert result.weight == (0 if name.startswith("bad") else 1), result
        assert result.warning.startswith(f"teacher {name} is dropped: ") if name.startswith("bad") else not result.warning
    expected = "it does not recognise its own pool (recovery 0.00)" if kind == "random" else "agreement 0."
    assert expected in results["bad-0"].warning
    assert "\n" not in results["bad-0"].warning


@pytest.mark.parametrize("kind", UNUSUAL_BUT_SOUND)
def test_unusual_but_sound_teachers_keep_their_full_weight(kind):
    unusual = UNUSUAL_BUT_SOUND[kind]
    assert all(result.weight == 1 for result in assessed([*GOOD, unusual, unusual]).values())


def test_the_weight_falls_with_the_agreement():
    results = [assessed([*GOOD, (0.89 - lack, 0.8, 0.97, 0.03)])["12"] for lack in (0.05, 0.13, 0.25)]
    assert results[0].weight == 1 and results[2].weight == 0
    assert 0 < results[1].weight < 1
    expected = f"teacher 12 is sampled with weight {results[1].weight:.2f}: agreement 0.76 (median of the zoo: 0.89)"
    assert results[1].warning == expected


def test_in_a_small_zoo_agreement_must_be_lower_to_decide_alone():
    low_agreement = (0.74, 0.8, 0.97, 0.03)
    assert assessed([*GOOD[:6], low_agreement])["6"].weight == 1
    assert assessed([*GOOD * 3, low_agreement])["36"].weight == 0
    all_low = (0.74, 0.6, 0.8, 0.03)
    assert assessed([*GOOD[:6], all_low])["6"].weight == 0


@pytest.mark.parametrize("count", [4, 9, 50])
def test_the_normal_score_is_smaller_and_approaches_the_deviations_with_many_values(count):
    values = [normal_score(deviations, count) for deviations in (-8.0, -3.0, 0.0, 2.0, math.inf)]
    assert values == sorted(values) and values[2] == pytest.approx(0, abs=1e-9) and values[4] == math.inf
    assert -8 < values[0] < -1 and values[1] > -3 and values[3] < 2
    assert normal_score(-2.5, 10**6) == pytest.approx(-2.5, abs=1e-4)


def test_a_teacher_of_usual_agreement_keeps_its_weight_with_any_pool():
    assert assessed([*GOOD, (0.89, 0.5, 0.5, 0.03)])["12"].weight == 1


def test_the_tolerance_grows_with_the_logarithm_of_the_statistics_distance():
    values = domain_tolerances([0.01, 0.02, 0.02, 0.2, 2.0, None])
    assert values == pytest.approx([0, 0, 0, DOMAIN_TOLERANCE, 2 * DOMAIN_TOLERANCE, math.inf])
    assert domain_tolerances([None, None]) == [math.inf, math.inf]


def test_few_teachers_are_not_compared_but_an_untrained_one_is_dropped():
    results = list(assessed([GOOD[0], BAD["shuffled"], BAD["random"]]).values())
    assert [result.weight for result in results] == [1, 1, 0]
    assert [result.score for result in results] == [0, 0, 0]


def test_no_teacher_is_dropped_for_its_recovery_if_most_pools_are_not_recognised():
    for random, most in ((7, True), (6, False)):
        results = list(assessed([*GOOD[:6], *[BAD["random"]] * random]).values())
        assert most_pools_unrecognised(results) is most
        assert [result.weight for result in results[6:]] == [float(most)] * random


@given(st.permutations(range(14)))
def test_the_order_of_the_zoo_does_not_matter(order):
    zoo = [*GOOD, BAD["shuffled"], UNUSUAL_BUT_SOUND["weak"]]
    results = assessed(zoo)
    permuted = assessed([zoo[i] for i in order], [str(i) for i in order])
    assert {name: result.weight for name, result in permuted.items()} == {name: result.weight for name, result in results.items()}


def test_deviations_are_those_of_the_upper_half():
    median, deviation = median_and_deviation([1.0, 1.8, 1.1, 1.4, 1.2])
    assert median == 1.2
    assert deviation == pytest.approx(1.4826 * 0.2)  # above the median: 0, 0.2, 0.6
    assert median_and_deviation([0.5] * 5) == (0.5, SMALLEST_DEVIATION)
    assert median_and_deviation([]) == (0, 1)


# ---- a small zoo, from training to decision ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(make_images):
    """Seven teachers of eight classes, trained on real labels; one on labels at random; one untrained. Each with a recovered pool.

    Features of teachers of four such classes have so little in common that the check cannot tell them from random labels.
    """
    images, labels = make_images(28, 40, 16, 3, noise=0.12)
    start = new_generator(latent=16, width=16, classes=8, channels=3, size=16, seed=0)
    teachers, pools = [], []
    for number, kind in enumerate(["good"] * 7 + ["shuffled", "random"]):
        data = ImageSet(images, labels, tuple(map(str, range(28)))).of_classes([(4 * number + i) % 28 for i in range(8)])
        if kind == "shuffled":
            order = torch.randperm(len(data.labels), generator=devices.generator(0, "order"))
            data = ImageSet(data.images, data.labels[order], data.classes)
        entry = Entry(name=f"{kind}-{number}", architecture=Architecture("conv4", 16), input=[3, 16, 16])
        network = empty_network(entry, 8, number)
        normalise = Normalise([0.5] * 3, [0.25] * 3)
        if kind != "random":
            steps = 600 if kind == "shuffled" else 120  # random labels must be memorised, which takes longer
            train_classifier(network, normalise, data, steps=steps, batch_size=32, learning_rate=0.01, seed=number, device=CPU, label=kind)
        teacher = Teacher(entry.name, freeze(network), normalise, data.classes, (3, 16, 16))
        rng = devices.generator(number, "draw")
        shared = InversionConfig(shift=1, augmentation=0.0)
        adapted = inner_loop(start, teacher, InnerLoopConfig(40, 0.01, 32), shared, seed=number).generator
        names = balanced_labels(8, 160)
        recovered = draw_images(adapted, torch.randn(160, adapted.latent, generator=rng), names, 40, CPU)
        teachers.append(teacher)
        pools.append(Pool(recovered, names, soft_labels(teacher, recovered), data.classes))
    return teachers, pools


@pytest.mark.parametrize("seed", [0, 1])
def test_a_teacher_of_random_labels_and_an_untrained_one_are_dropped(zoo, seed):
    teachers, pools = zoo
    results = teacher_reliability(pools, teachers, seed=seed)
    assert [result.name for result in results] == [teacher.name for teacher in teachers]
    for result in results:
        assert result.weight == (1 if result.name.startswith("good") else 0), result


def test_the_same_seed_gives_the_same_result_and_teachers_do_not_change(zoo, state_of, assert_same_state):
    teachers, pools = zoo
    before = [state_of(teacher.network) for teacher in teachers]
    first = teacher_reliability(pools, teachers, seed=3)
    assert teacher_reliability(pools, teachers, seed=3) == first
    for teacher, state in zip(teachers, before, strict=True):
        assert_same_state(state_of(teacher.network), state)


def test_teachers_of_different_input_sizes_are_compared(teachers, pools, make_teacher):
    other = make_teacher("fourth", ("a", "b"), 4, size=24)
    images = torch.randint(0, 256, (10, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    results = teacher_reliability([*pools, Pool(images, torch.arange(10) % 2, torch.empty(0), ("a", "b"))], [*teachers, other], seed=0)
    assert [result.name for result in results] == ["first", "second", "third", "fourth"]
    assert all(0 <= result.weight <= 1 and result.agreement <= 1 and 0 <= result.compactness <= 1 for result in results)
    assert dataclasses.asdict(results[0]).keys() >= {"name", "weight", "score", "reason"}
