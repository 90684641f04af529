import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionConfig, LearnableSetInversion
from datafree.errors import UserError
from datafree.inversion import learnable_set
from datafree.inversion.learnable_set import EpisodeLearner, draw_episode, episode_loss, recover

SHARED = InversionConfig(images_per_class=4, shift=1)


def method(**changes) -> LearnableSetInversion:
    return LearnableSetInversion(**{"steps": 6, "way": 3, "shot": 1, "query": 2, "learner_width": 8, **changes})


def pool(teacher, settings=None, shared=SHARED, seed=0):
    return recover(teacher, settings or method(), shared, size=16, start=None, seed=seed, checkpoint=Checkpoint(None))


def rng(name="draw"):
    return devices.generator(0, name)


def test_an_episode_holds_distinct_images_of_distinct_classes():
    source = rng()
    for _ in range(20):
        chosen, rows = draw_episode(6, 4, 10, 7, source)
        assert len(set(chosen.tolist())) == 4
        assert rows.shape == (4, 7)
        assert torch.equal(rows // 10, chosen[:, None].expand(4, 7))
        assert all(len(set(row.tolist())) == 7 for row in rows)
    assert draw_episode(3, 5, 2, 2, source)[1].shape == (3, 2)  # no more classes than there are


def test_the_loss_of_an_episode_is_that_of_a_plain_loop():
    features = torch.randn(3, 5, 4, generator=rng(), dtype=torch.float64)
    unit = features / features.norm(dim=-1, keepdim=True)
    losses, right = [], 0
    for w in range(3):
        for query in unit[w, 2:]:
            scores = torch.stack([-10 * (query - unit[c, :2].mean(0)).square().sum() for c in range(3)])
            losses.append(scores.logsumexp(0) - scores[w])
            right += int(scores.argmax()) == w
    loss, accuracy = episode_loss(features, shot=2)
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert accuracy == pytest.approx(right / 9)


def learner_of(settings=None):
    return EpisodeLearner(settings or method(), 32, torch.device("cpu"), seed=0)


def test_the_learner_learns_what_it_faces(make_images):
    images, labels = make_images(3, 3, 32, seed=1)
    episode = images[labels.argsort(stable=True)] / 255
    learner = learner_of()
    losses = [learner.learn(episode, hard=False)["episode_loss"] for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def test_difficulty_is_the_loss_with_a_gradient_for_the_images():
    images = torch.rand(9, 3, 16, 16, generator=rng(), requires_grad=True)  # half the resolution
    learner = learner_of()
    found = learner.difficulty(images)
    enlarged = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear", antialias=True)
    expected, accuracy = episode_loss(learner.network((enlarged - 0.5) / 0.25).unflatten(0, (3, 3)), 1)
    assert torch.allclose(found, expected)
    found.backward()
    assert images.grad.abs().sum() > 0
    fresh = learner_of().learn(images, hard=False)
    assert fresh == {"episode_loss": pytest.approx(expected.item(), rel=1e-4), "episode_accuracy": accuracy}
    assert learner.learn(images, hard=False) == fresh  # what difficulty left behind does not count
    for one, other in zip(learner.network.parameters(), learner_of_after(images).network.parameters(), strict=True):
        assert torch.equal(one, other)


def learner_of_after(images):
    learner = learner_of()
    learner.learn(images, hard=False)
    return learner


def test_the_wait_is_the_number_of_steps_without_a_better_accuracy(monkeypatch):
    accuracies = iter([0.2, 0.5, 0.5, 0.4, 0.6, 0.6, 0.6])
    learner, episode = learner_of(), torch.rand(9, 3, 32, 32, generator=rng())
    loss = learner._loss
    monkeypatch.setattr(learner, "_loss", lambda images: (loss(images)[0], next(accuracies)))
    waited = []
    for _ in range(6):
        learner.learn(episode, hard=False)
        waited.append(learner.waited)
    assert waited == [0, 0, 1, 2, 0, 1]
    learner.learn(episode, hard=True)
    assert learner.waited == 0
    learner.forget()
    assert (learner.best, learner.waited) == (0.0, 0)


def test_hard_steps_come_when_the_learner_is_bored_and_not_before_the_warm_up(teachers):
    settings = {"steps": 40, "patience": 3, "warm_up": 0.5, "adversarial": 0.1}
    history = pool(teachers[0], method(**settings)).history
    best, waited = 0.0, 0
    for row in history:
        assert row["hard"] == float(row["step"] > 20 and waited >= 3)
        waited = 0 if row["hard"] or row["episode_accuracy"] > best else waited + 1
        best = max(best, row["episode_accuracy"])
    assert sum(row["hard"] for row in history) > 2
    calm = pool(teachers[0], method(**{**settings, "adversarial": 0.0})).history
    assert not any(row["hard"] for row in calm)
    assert [row["cross_entropy"] for row in calm[:20]] == [row["cross_entropy"] for row in history[:20]]


def test_hard_steps_make_episodes_harder(teachers):
    shared = InversionConfig(images_per_class=6, shift=0)
    settings = {"steps": 60, "way": 3, "patience": 1, "warm_up": 0.3}
    losses = []
    for weight in (0.0, 20.0):
        history = pool(teachers[0], method(**settings, adversarial=weight), shared).history
        losses.append(sum(row["episode_loss"] for row in history[-20:]))
    assert losses[1] > 2 * losses[0]


def test_a_teacher_of_many_classes_has_several_sets(teachers, monkeypatch):
    started, original = [], learnable_set.PixelParameters.start

    def watch(canvas, count, size, rng):
        started.append((count, size))
        original(canvas, count, size, rng)

    monkeypatch.setattr(learnable_set.PixelParameters, "start", watch)
    found = pool(teachers[2], method(classes=2, coarse=0.5))  # five classes
    assert started == [(8, 8), (8, 8), (4, 8)]
    assert found.labels.tolist() == [label for label in range(5) for _ in range(4)]
    assert found.images.shape == (20, 3, 16, 16)
    assert len(found.history) == 18


def test_labels_are_those_the_images_were_made_for(teachers):
    found = pool(teachers[1], method(steps=80, classes=2, way=2, shot=1, query=2))
    assert (found.soft_labels.float().argmax(1) == found.labels).float().mean() > 0.9


def test_an_episode_larger_than_a_class_is_refused(teachers):
    with pytest.raises(UserError, match="inversion.images_per_class: got 4; .* needs at least 5; raise it, or lower"):
        pool(teachers[0], method(shot=2, query=3))
