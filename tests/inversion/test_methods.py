"""Requirements of every inversion method in ``METHODS``; a new method adds its settings for these tests to ``CASES``."""

import dataclasses

import pytest
import torch

from datafree.checkpoints import Checkpoint
from datafree.config import (
    INVERSION_TYPES,
    BlackBoxInversion,
    GeneratorInversion,
    Initialisation,
    InversionConfig,
    InversionLossConfig,
    LearnableSetInversion,
    PixelInversion,
    starts_from_meta,
)
from datafree.inversion import METHODS, Recovery, recover_one
from datafree.inversion.generator import new_generator
from datafree.zoo.teachers import soft_labels

SIZE = 16
SHARED = InversionConfig(images_per_class=4, shift=1, region=0.75, loss=InversionLossConfig(total_variation=0.01, squared_norm=0.001))
OWN = {"initialisation": Initialisation.random, "latent": 6, "width": 8, "conditional": True}
SMALL = {"steps": 4, "batch_size": 8}
CASES = {
    "generator": GeneratorInversion(**SMALL),
    "pixels": PixelInversion(**SMALL),
    "calibrated pixels": PixelInversion(steps=3, batch_size=8, calibration_rounds=2),
    "pixels with competition": PixelInversion(**SMALL, flip=True, competition=1.0),
    "learnable set": LearnableSetInversion(steps=4, classes=3, shot=2, query=2, learner_width=8, patience=1, warm_up=0.0),
    "black box": BlackBoxInversion(**SMALL, directions=4, latent=6, width=8),
    "new generator": GeneratorInversion(**SMALL, **OWN),
    "latents of each batch": GeneratorInversion(**{**SMALL, "batch_size": 4}, latent_learning_rate=0.05),
    "unconditional": GeneratorInversion(**{**SMALL, "batch_size": 4}, **{**OWN, "conditional": False}, latent_learning_rate=0.1),
    "calibration": GeneratorInversion(steps=3, batch_size=8, calibration_rounds=4),
    "contrastive": GeneratorInversion(**SMALL, contrastive=0.5, contrastive_memory=12),
    "student": GeneratorInversion(**SMALL, adversarial=0.5),
}


GLOBAL_SEED = 1  # of PyTorch's global random numbers, of which no method takes any


@pytest.fixture(scope="module", params=CASES)
def method(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def whole(method, teachers):
    """What an uninterrupted recovery of the first teacher gives."""
    torch.manual_seed(GLOBAL_SEED)
    return recover(teachers[0], method)


@pytest.fixture(scope="module")
def odd_teachers(make_teacher):
    """Teachers with grey and larger images, without BatchNorm layers, and with more classes than a batch has images."""
    grey = make_teacher("grey", ("ant", "bee"), 4, size=24, channels=1)
    plain = make_teacher("plain", ("ant", "bee", "cat"), 5, size=SIZE)
    for module in plain.network.modules():
        for name, layer in module.named_children():
            if isinstance(layer, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.GroupNorm(1, layer.num_features))
    many = make_teacher("many", tuple(f"class-{label}" for label in range(19)), 6, size=SIZE)
    return {"grey": grey, "plain": plain, "many": many}


def recover(teacher, method, seed=0, checkpoint=None, shared=SHARED):
    start = new_generator(6, 8, max(3, len(teacher.classes)), 3, SIZE, seed=0) if starts_from_meta(method) else None
    return recover_one(Recovery(teacher, seed, checkpoint or Checkpoint(None)), method, shared, size=SIZE, start=start)


def few(method):
    """As ``SHARED``, with as few images as the method can recover."""
    return dataclasses.replace(SHARED, images_per_class=2) if method.method != "learnable_set" else SHARED


def check(recovered, teacher, shared=SHARED):
    count = len(teacher.classes)
    assert recovered.images.dtype == torch.uint8
    assert recovered.images.shape == (shared.images_per_class * count, 3, SIZE, SIZE)
    assert recovered.images.float().std() > 5
    assert recovered.labels.dtype == torch.int64
    assert torch.bincount(recovered.labels).tolist() == [shared.images_per_class] * count
    assert recovered.soft_labels.dtype == torch.float16
    assert torch.equal(recovered.soft_labels, soft_labels(teacher, recovered.images))
    assert [row["step"] for row in recovered.history] == list(range(1, len(recovered.history) + 1))
    assert all(row.keys() == recovered.history[0].keys() for row in recovered.history)
    assert len(recovered.images.flatten(1).unique(dim=0)) == len(recovered.images)


def same(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("images", "labels", "soft_labels"))


def test_every_registered_method_has_settings_and_is_tested():
    assert METHODS.keys() == INVERSION_TYPES.keys() == {method.method for method in CASES.values()}
    for name, kind in INVERSION_TYPES.items():
        assert kind().method == name


def test_a_pool_is_complete(whole, teachers):
    check(whole, teachers[0])


def test_a_seed_determines_the_images_and_neither_the_teacher_nor_global_randomness_matters_or_changes(
    method, whole, teachers, state_of, assert_same_state
):
    before = state_of(teachers[0].network)
    torch.manual_seed(GLOBAL_SEED + 1)
    again = recover(teachers[0], method)
    assert same(whole, again)
    assert whole.history == again.history
    assert torch.equal(torch.random.get_rng_state(), torch.manual_seed(GLOBAL_SEED + 1).get_state())
    assert_same_state(state_of(teachers[0].network), before)
    assert not torch.equal(whole.images, recover(teachers[0], method, seed=1).images)


@pytest.mark.parametrize("kind", ["grey", "plain", "many"])
def test_unusual_teachers_are_supported(method, odd_teachers, kind):
    teacher, shared = odd_teachers[kind], few(method)
    recovered = recover(teacher, method, shared=shared)
    check(recovered, teacher, shared)
    if kind == "plain":
        assert all(row.get("batch_norm", 0.0) == 0 for row in recovered.history)


# The first round of a calibration is a recovery without calibration.
@pytest.mark.parametrize("case", [name for name, method in CASES.items() if getattr(method, "calibration_rounds", 1) == 1])
def test_more_steps_lower_the_cross_entropy(case, teachers):
    method = dataclasses.replace(CASES[case], steps=18)
    if isinstance(method, (GeneratorInversion, PixelInversion)):
        method = dataclasses.replace(method, batch_size=10)  # all images
    plain = dataclasses.replace(few(method), shift=0, augmentation=0.0, region=1.0)
    first, last = 0.0, 0.0
    for seed in range(2):  # a single run is noisy, as every step has other latents and images
        losses = [row["cross_entropy"] for row in recover(teachers[2], method, seed, shared=plain).history[:18]]  # of the first batch
        first, last = first + sum(losses[:8]), last + sum(losses[-8:])
    assert last < 0.95 * first


class Interrupted(Exception):
    pass


class Interrupting(Checkpoint):
    """Saves at every call and raises after ``saves`` of them; ``resumed_at`` are the steps at which work resumed."""

    def __init__(self, path, saves=None):
        super().__init__(path, "work", seconds_between=0)
        self.saves = saves
        self.resumed_at = []

    def write(self, step, history, **objects):
        super().write(step, history, **objects)
        if self.saves is not None:
            self.saves -= 1
            if self.saves == 0:
                raise Interrupted

    def restore(self, **objects):
        resumed = super().restore(**objects)
        self.resumed_at.append(resumed[0])
        return resumed


@pytest.mark.parametrize("saves", [1, 3])
def test_an_interrupted_recovery_resumes_to_the_same_bytes(method, whole, teachers, tmp_path, saves):
    with pytest.raises(Interrupted):
        recover(teachers[0], method, checkpoint=Interrupting(tmp_path / "c.pt", saves))
    checkpoint = Interrupting(tmp_path / "c.pt")
    resumed = recover(teachers[0], method, checkpoint=checkpoint)
    assert any(checkpoint.resumed_at)
    assert same(whole, resumed)
    assert whole.history == resumed.history


@pytest.mark.parametrize("case", ["generator", "pixels", "calibration"])
def test_diversity_off_equals_a_weight_of_zero(case, teachers):
    wide, none = (
        dataclasses.replace(SHARED, loss=dataclasses.replace(SHARED.loss, diversity_margin=9.0, diversity=weight)) for weight in (5.0, 0.0)
    )
    recovered = recover(teachers[1], dataclasses.replace(CASES[case], diversity=False), shared=wide)
    assert same(recovered, recover(teachers[1], CASES[case], shared=none))
    assert not torch.equal(recovered.images, recover(teachers[1], CASES[case], shared=wide).images)
