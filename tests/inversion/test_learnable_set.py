import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionConfig, LearnableSetInversion
from datafree.errors import UserError
from datafree.inversion import Recovery, recover_one
from datafree.inversion.learnable_set import EpisodeLearner, episode_loss_and_accuracy, sample_episode

SHARED = InversionConfig(images_per_class=4, shift=1)


def method(**changes) -> LearnableSetInversion:
    return LearnableSetInversion(**{"steps": 6, "way": 3, "shot": 1, "query": 2, "learner_width": 8, **changes})


def pool(teacher, settings=None, shared=SHARED, seed=0):
    return recover_one(Recovery(teacher, seed, Checkpoint(None)), settings or method(), shared, size=16)


def rng(name="draw"):
    return devices.generator(0, name)


def test_an_episode_has_distinct_images_of_distinct_classes():
    source = rng()
    for _ in range(20):
        chosen, rows = sample_episode(6, 4, 10, 7, source)
        assert len(set(chosen.tolist())) == 4
        assert rows.shape == (4, 7)
        assert torch.equal(rows // 10, chosen[:, None].expand(4, 7))
        assert all(len(set(row.tolist())) == 7 for row in rows)
    assert sample_episode(3, 5, 2, 2, source)[1].shape == (3, 2)  # fewer classes than the way


def test_loss_and_accuracy_of_an_episode_equal_a_plain_loop():
    features = torch.randn(3, 5, 4, generator=rng(), dtype=torch.float64)
    unit = features / features.norm(dim=-1, keepdim=True)
    losses, right = [], 0
    for w in range(3):
        for query in unit[w, 2:]:
            scores = torch.stack([-10 * (query - unit[c, :2].mean(0)).square().sum() for c in range(3)])
            losses.append(scores.logsumexp(0) - scores[w])
            right += int(scores.argmax()) == w
    loss, accuracy = episode_loss_and_accuracy(features, shot=2)
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert accuracy == pytest.approx(right / 9)


def learner_of(settings=None):
    return EpisodeLearner(settings or method(), 32, torch.device("cpu"), seed=0)


def test_the_learner_fits_a_repeated_episode(make_images):
    images, labels = make_images(3, 3, 32, seed=1)
    episode = images[labels.argsort(stable=True)] / 255
    learner = learner_of()
    losses = [learner.learn(episode, hard=False)["episode_loss"] for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def test_difficulty_is_the_loss_with_a_gradient_for_the_images():
    images = torch.rand(9, 3, 16, 16, generator=rng(), requires_grad=True)  # half the resolution
    learner = learner_of()
    loss = learner.difficulty(images)
    enlarged = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear", antialias=True)
    expected, accuracy = episode_loss_and_accuracy(learner.network((enlarged - 0.5) / 0.25).unflatten(0, (3, 3)), 1)
    assert torch.allclose(loss, expected)
    loss.backward()
    assert images.grad.abs().sum() > 0
    new_learner = learner_of().learn(images, hard=False)
    assert new_learner == {"episode_loss": pytest.approx(expected.item(), rel=1e-4), "episode_accuracy": accuracy}
    assert learner.learn(images, hard=False) == new_learner  # gradients of difficulty are not used
    for first, second in zip(learner.network.parameters(), learner_of_after(images).network.parameters(), strict=True):
        assert torch.equal(first, second)


def learner_of_after(images):
    learner = learner_of()
    learner.learn(images, hard=False)
    return learner


def test_stalled_steps_count_the_steps_without_a_better_accuracy():
    learner, source = learner_of(), rng()
    best, stalled, counts = 0.0, 0, []
    for _ in range(12):
        accuracy = learner.learn(torch.rand(9, 3, 32, 32, generator=source), hard=False)["episode_accuracy"]
        stalled = 0 if accuracy > best else stalled + 1
        best = max(best, accuracy)
        assert (learner.best, learner.stalled_steps) == (best, stalled)
        counts.append(stalled)
    assert max(counts) > 1
    learner.learn(torch.rand(9, 3, 32, 32, generator=source), hard=True)
    assert learner.stalled_steps == 0
    learner.reset_progress()
    assert (learner.best, learner.stalled_steps) == (0.0, 0)


def test_hard_steps_follow_stalled_steps_after_the_warm_up(teachers):
    settings = {"steps": 40, "patience": 3, "warm_up": 0.5, "adversarial": 0.1}
    history = pool(teachers[0], method(**settings)).history
    best, stalled = 0.0, 0
    for row in history:
        assert row["hard"] == float(row["step"] > 20 and stalled >= 3)
        stalled = 0 if row["hard"] or row["episode_accuracy"] > best else stalled + 1
        best = max(best, row["episode_accuracy"])
    assert sum(row["hard"] for row in history) > 2
    without = pool(teachers[0], method(**{**settings, "adversarial": 0.0})).history
    assert not any(row["hard"] for row in without)
    assert [row["cross_entropy"] for row in without[:20]] == [row["cross_entropy"] for row in history[:20]]


def test_hard_steps_make_episodes_harder(teachers):
    shared = InversionConfig(images_per_class=6, shift=0)
    settings = {"steps": 60, "way": 3, "patience": 1, "warm_up": 0.3}
    losses = []
    for weight in (0.0, 20.0):
        history = pool(teachers[0], method(**settings, adversarial=weight), shared).history
        losses.append(sum(row["episode_loss"] for row in history[-20:]))
    assert losses[1] > 2 * losses[0]


def test_a_teacher_of_many_classes_has_several_sets(teachers):
    sizes = []
    handle = teachers[2].network.register_forward_hook(lambda _, arguments, logits: sizes.append(len(logits)))
    recovered = pool(teachers[2], method(classes=2, coarse=0.5))  # five classes in sets of 2, 2 and 1
    handle.remove()
    assert sizes == [6] * 12 + [3] * 6 + [20]  # episodes of 3 images per class, and the soft labels
    assert recovered.labels.tolist() == [label for label in range(5) for _ in range(4)]
    assert recovered.images.shape == (20, 3, 16, 16)
    assert len(recovered.history) == 18


def test_the_teacher_predicts_the_labels(teachers):
    recovered = pool(teachers[1], method(steps=80, classes=2, way=2, shot=1, query=2))
    assert (recovered.soft_labels.float().argmax(1) == recovered.labels).float().mean() > 0.9


def test_an_episode_larger_than_a_class_is_refused(teachers):
    with pytest.raises(UserError, match="inversion.images_per_class: got 4; .* needs at least 5; raise it, or lower"):
        pool(teachers[0], method(shot=2, query=3))
