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
from datafree.tasks.reliability import FEWEST_TEACHERS, assess, domain_factors, teacher_reliability, why_not_judged
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


# A teacher is (agreement, explained variance, compactness, recovery, statistics distance); the values are about those that were measured.
GOOD = [
    (0.88 + 0.01 * (i % 3), 0.2 + 0.02 * (i % 5), 0.66 + 0.03 * (i % 4), 0.77 + 0.04 * (i % 5), 0.02 + 0.01 * (i % 4)) for i in range(12)
]
BAD = {
    "shuffled": (0.55, 0.08, 0.5, 0.53, 0.04),
    "shuffled, usual agreement": (0.85, 0.02, 0.7, 0.43, 0.06),
    "memorised": (0.4, 0.02, 0.38, 0.6, 0.04),
    "memorised, pool recognised": (0.3, 0.02, 0.75, 0.9, 0.03),
    "untrained": (0.5, 0.0, 0.3, 0.0, 0.68),
    "shuffled, of another domain": (0.4, 0.06, 0.5, 0.85, 0.6),
    "shuffled, without BatchNorm": (0.4, 0.06, 0.5, 0.85, None),
}
UNUSUAL_BUT_SOUND = {
    "of another domain": (0.3, 0.0, 0.75, 0.85, 0.3),
    "weak": (0.87, 0.15, 0.7, 0.5, 0.03),
    "uncertain about the others' images": (0.8, 0.04, 0.7, 0.85, 0.03),
    "of two classes": (0.93, 0.4, 0.5, 0.95, 0.03),
    "without BatchNorm": (0.3, 0.06, 0.7, 0.85, None),
}


def assessed(zoo, names=None):
    """Name → reliability."""
    *measures, distances = map(list, zip(*zoo, strict=True))
    by_measure = dict(zip(("agreement", "explained_variance", "compactness", "recovery"), measures, strict=True))
    return {result.name: result for result in assess(names or [str(i) for i in range(len(zoo))], by_measure, distances)}


def test_all_teachers_of_a_uniform_zoo_have_full_weight():
    results = assessed(GOOD).values()
    assert all(result.weight == 1 and not result.reason and not result.warning for result in results)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("count", [1, 4])
def test_bad_teachers_are_dropped_with_a_reason_and_the_others_kept(kind, count):
    names = [f"good-{i}" for i in range(12)] + [f"bad-{i}" for i in range(count)]
    results = assessed(GOOD + [BAD[kind]] * count, names)
    for name, result in results.items():
        assert result.weight == (0 if name.startswith("bad") else 1), result
        assert result.warning.startswith(f"teacher {name} is dropped: ") if name.startswith("bad") else not result.warning
    expected = "it does not recognise its own pool (recovery 0.00)" if kind == "untrained" else "explained variance 0.0"
    assert expected in results["bad-0"].warning
    assert "\n" not in results["bad-0"].warning


@pytest.mark.parametrize("kind", UNUSUAL_BUT_SOUND)
def test_unusual_but_sound_teachers_keep_their_full_weight(kind):
    unusual = UNUSUAL_BUT_SOUND[kind]
    assert all(result.weight == 1 for result in assessed([*GOOD, unusual, unusual]).values())


def test_the_weight_falls_with_the_explained_variance_if_the_pool_is_not_well_recognised():
    results = [assessed([*GOOD, (0.89, variance, 0.75, 0.5, 0.03)])["12"] for variance in (0.13, 0.0935, 0.08)]
    assert results[0].weight == 1 and results[2].weight == 0
    assert results[1].weight == pytest.approx((0.0935 / 0.22 - 0.4) / 0.05)
    measured = "explained variance 0.09 (median of the zoo: 0.22) and recovery 0.50 (median of the zoo: 0.81)"
    assert results[1].warning == f"teacher 12 is sampled with weight {results[1].weight:.2f}: {measured}"


def test_the_weight_falls_with_the_agreement_if_the_pool_is_usual():
    results = [assessed([*GOOD, (agreement, 0.01, 0.75, 0.85, 0.03)])["12"] for agreement in (0.5, 0.3)]
    assert [result.weight for result in results] == [1, 0]
    assert "explained variance 0.01 (median of the zoo: 0.22) and agreement 0.30 (median" in results[1].warning


def test_a_teacher_of_usual_explained_variance_keeps_its_weight_with_any_pool():
    assert assessed([*GOOD, (0.1, 0.24, 0.3, 0.3, 0.03)])["12"].weight == 1


def test_the_domain_factor_is_the_statistics_distance_in_medians_of_the_reference_and_at_least_1():
    assert domain_factors([0.01, 0.02, 0.04, 2.0, None], range(3)) == pytest.approx([1, 1, 2, 100, math.inf])
    assert domain_factors([None, None], [0]) == [math.inf, math.inf]


@pytest.mark.parametrize("count", range(1, FEWEST_TEACHERS))
def test_few_teachers_are_not_judged_and_none_is_dropped(count):
    results = list(assessed([BAD["untrained"], BAD["shuffled"], *GOOD][:count]).values())
    assert [(result.weight, result.score, result.warning) for result in results] == [(1, 1, "")] * count
    expected = f"a comparison takes at least {FEWEST_TEACHERS} teachers, and the zoo has {count}"
    assert why_not_judged([result.recovery for result in results]) == expected


def test_a_broken_teacher_is_found_among_the_fewest_teachers():
    for bad in (BAD["shuffled"], BAD["untrained"]):
        results = list(assessed([*GOOD[: FEWEST_TEACHERS - 1], bad]).values())
        assert [result.weight for result in results] == [1] * (FEWEST_TEACHERS - 1) + [0]
        assert not why_not_judged([result.recovery for result in results])


def test_no_teacher_is_judged_if_most_pools_are_not_recognised():
    for untrained, most in ((7, True), (6, False)):
        results = list(assessed([*GOOD[:6], *[BAD["untrained"]] * untrained]).values())
        reason = why_not_judged([result.recovery for result in results])
        assert reason.startswith("most teachers do not recognise their own pools; ") if most else not reason
        assert [result.weight for result in results] == [1] * 6 + [float(most)] * untrained


@given(st.permutations(range(14)))
def test_the_order_of_the_zoo_does_not_matter(order):
    zoo = [*GOOD, BAD["shuffled"], UNUSUAL_BUT_SOUND["weak"]]
    results = assessed(zoo)
    permuted = assessed([zoo[i] for i in order], [str(i) for i in order])
    assert {name: result.weight for name, result in permuted.items()} == {name: result.weight for name, result in results.items()}


# ---- a small zoo, from training to decision ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo(make_images):
    """Five teachers of eight classes, trained on real labels; one on labels at random; one untrained. Each with a recovered pool.

    Features of teachers of four such classes have so little in common that the check cannot tell them from random labels.
    """
    images, labels = make_images(28, 40, 16, 3, noise=0.12)
    start = new_generator(latent=16, width=16, classes=8, channels=3, size=16, seed=0)
    teachers, pools = [], []
    for number, kind in enumerate(["good"] * 5 + ["shuffled", "random"]):
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
    assert all(0 <= result.weight <= 1 and 0 <= result.agreement <= 1 and 0 <= result.compactness <= 1 for result in results)
    assert all(0 <= result.explained_variance <= 1 for result in results)
    assert dataclasses.asdict(results[0]).keys() >= {"name", "weight", "score", "reason"}
