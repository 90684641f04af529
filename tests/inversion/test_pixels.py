import math

import pytest
import torch
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionConfig, InversionLossConfig, PixelInversion
from datafree.errors import UserError
from datafree.inversion import pixels
from datafree.inversion.losses import BatchNormMatch, within_class_distance
from datafree.inversion.pixels import Student, jensen_shannon, look, recover, terms, weighted

SHARED = InversionConfig(images_per_class=4, shift=1)


def method(**changes) -> PixelInversion:
    return PixelInversion(**{"steps": 6, "batch_size": 7, "student_width": 8, **changes})


def pool(teacher, settings=None, shared=SHARED, seed=0, size=32, checkpoint=None):
    return recover(teacher, settings or method(), shared, size=size, start=None, seed=seed, checkpoint=checkpoint or Checkpoint(None))


class Killed(Exception):
    pass


class Dying(Checkpoint):
    """Keeps every step and dies after so many."""

    def __init__(self, path, left):
        super().__init__(path, "work", seconds_between=0)
        self.left = left

    def save(self, step, history, **objects):
        super().save(step, history, **objects)
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("competition", [0.0, 1.0])
@pytest.mark.parametrize("after", [3, 7, 11])
def test_killed_it_goes_on_to_the_same_pool(teachers, tmp_path, after, competition):
    settings = method(competition=competition)
    whole = pool(teachers[0], settings)
    with pytest.raises(Killed):
        pool(teachers[0], settings, checkpoint=Dying(tmp_path / "c.pt", after))
    again = pool(teachers[0], settings, checkpoint=Checkpoint(tmp_path / "c.pt", "work"))
    assert torch.equal(whole.images, again.images)
    assert whole.history == again.history


@pytest.mark.parametrize("settings", [{}, {"coarse": 0.0}, {"coarse": 1.0}, {"flip": True, "competition": 1.0}])
def test_a_pool_is_whole_and_its_seed_decides_it(teachers, settings, state_of, assert_same_state):
    teacher = teachers[1]
    before = state_of(teacher.network)
    first, second = (pool(teacher, method(**settings)) for _ in range(2))
    assert first.images.shape == (16, 3, 32, 32)
    assert first.images.dtype == torch.uint8
    assert torch.bincount(first.labels).tolist() == [4] * 4
    assert first.soft_labels.shape == (16, 4)
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, pool(teacher, method(**settings), seed=1).images)
    assert_same_state(state_of(teacher.network), before)
    assert [row["step"] for row in first.history] == [1, 6, 7, 12, 13, 18]  # three batches of 6, 5 and 5 images


def test_the_teacher_believes_the_images(teachers):
    teacher = teachers[2]
    found = pool(teacher, method(steps=40, batch_size=20))
    chance = pool(teacher, method(steps=1, batch_size=20))
    believed = [result.soft_labels.float().gather(1, result.labels[:, None]).mean().item() for result in (found, chance)]
    assert believed[0] > 0.9
    assert believed[0] > believed[1] + 0.3
    assert found.history[-1]["batch_norm"] < 0.5 * chance.history[-1]["batch_norm"]


def test_another_size_and_grey_teachers_are_served(make_teacher):
    teacher = make_teacher("other", ("a", "b"), 4, size=16)
    assert pool(teacher, size=24).images.shape == (8, 3, 24, 24)


def test_the_first_steps_are_at_half_the_resolution(teachers, monkeypatch):
    seen = []
    original = pixels.look
    monkeypatch.setattr(pixels, "look", lambda teacher, images, *rest: seen.append(images.shape[-1]) or original(teacher, images, *rest))
    pool(teachers[0], method(steps=10, batch_size=100, coarse=0.3))
    assert seen == [16] * 3 + [32] * 7
    seen.clear()
    pool(teachers[0], method(steps=4, batch_size=100, coarse=0.0))
    assert seen == [32] * 4


def test_the_terms_are_those_of_what_the_teacher_sees(teachers):
    teacher, target = teachers[1], torch.tensor([0, 1, 2, 3, 0, 1])
    images = torch.rand(6, 3, 32, 32, generator=devices.generator(0, "images"))
    views = teacher.normalise(255 * images)
    settings = method(total_variation=2.0, l2=3.0)
    found = terms(teacher, images, views, target, Student(teacher, settings, 0), settings, SHARED)
    assert torch.allclose(found["cross_entropy"], F.cross_entropy(teacher.network(views), target))
    with BatchNormMatch(teacher.network) as match:
        teacher.network(views)
        assert torch.allclose(found["batch_norm"], match.distance())
    spread = max(0.0, SHARED.loss.diversity_margin - within_class_distance(views, target).item())
    assert found["diversity"].item() == pytest.approx(spread, abs=1e-6)
    expected = ((images - 0.5) / 0.25).square().flatten(1).mean(1).sqrt().mean()
    assert torch.allclose(found["l2"], expected)
    assert found["competition"].item() == 0
    parts = weighted(found, settings, SHARED)
    assert torch.allclose(parts["l2"], 3 * expected)
    assert torch.allclose(parts["total_variation"], 2 * found["total_variation"])
    assert torch.allclose(parts["batch_norm"], SHARED.loss.batch_norm * found["batch_norm"])


def test_views_are_rolled_and_half_of_them_mirrored(teachers):
    images = torch.rand(2, 3, 32, 32, generator=devices.generator(0, "images"))
    plain = teachers[0].normalise(255 * images)
    moves = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    mirrored = []
    for number in range(30):
        seen = look(teachers[0], images, True, 1, devices.generator(number, "view"))
        straight = any(torch.equal(seen, plain.roll(move, (2, 3))) for move in moves)
        assert straight or any(torch.equal(seen, plain.roll(move, (2, 3)).flip(3)) for move in moves)
        mirrored.append(not straight)
    assert 5 < sum(mirrored) < 25
    for number in range(5):
        assert torch.equal(look(teachers[0], images, False, 0, devices.generator(number, "view")), plain)


def test_the_divergence_is_0_at_equality_1_at_exclusion_and_symmetric():
    draw = devices.generator(0, "logits")
    one, two = torch.randn(5, 4, generator=draw), torch.randn(5, 4, generator=draw)
    assert jensen_shannon(one, one + 3).item() == pytest.approx(0, abs=1e-6)
    sure = torch.tensor([[50.0, 0.0, 0.0]])
    assert jensen_shannon(sure, sure.roll(1, 1)).item() == pytest.approx(1)
    assert jensen_shannon(one, two).item() == pytest.approx(jensen_shannon(two, one).item())
    p, q = one.softmax(1).double(), two.softmax(1).double()
    middle = (p + q) / 2
    expected = ((p * (p / middle).log2()).sum(1) + (q * (q / middle).log2()).sum(1)).mean() / 2
    assert jensen_shannon(one, two).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_student_learns_and_the_images_keep_ahead_of_it(teachers):
    teacher, images = teachers[0], torch.rand(12, 3, 32, 32, generator=devices.generator(0, "images"))
    student = Student(teacher, method(competition=1.0), seed=0)
    views = teacher.normalise(255 * images)
    logits = teacher.network(views)
    before = student.compete(views, logits).item()
    for _ in range(60):
        student.learn()
    assert student.compete(views, logits).item() > max(before, 0.9)
    alone, ahead = (pool(teacher, method(steps=60, batch_size=12, competition=weight)) for weight in (0.001, 20.0))
    agreement = [result.history[-1]["competition"] for result in (alone, ahead)]
    assert agreement[1] < agreement[0]


def test_the_competition_has_a_gradient_for_both_networks_inputs(teachers):
    teacher = teachers[0]
    student = Student(teacher, method(competition=1.0), seed=0)
    views = torch.randn(4, 3, 32, 32, generator=devices.generator(0, "views"), requires_grad=True)
    logits = teacher.network(views).detach().requires_grad_()
    student.compete(views, logits).backward()
    assert views.grad.abs().sum() > 0
    assert logits.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in student.network.parameters())


def test_without_competition_there_is_no_student(teachers):
    student = Student(teachers[0], method(), seed=0)
    student.learn()
    student.load_state_dict(student.state_dict())
    assert student.network is None


def test_work_that_diverges_stops(teachers):
    shared = InversionConfig(images_per_class=2, loss=InversionLossConfig(diversity_margin=math.nan))
    with pytest.raises(UserError, match="pixels: diversity became nan at step 1"):
        pool(teachers[0], shared=shared)
