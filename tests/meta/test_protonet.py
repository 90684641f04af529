import dataclasses

import pytest
import torch

from datafree import devices
from datafree.config import ProtoNetArm
from datafree.episode_loss import EPISODE_SCALE, episode_loss
from datafree.meta import protonet
from datafree.meta.protonet import mix_tasks, mixing_share


def test_a_mixed_task_interpolates_two_tasks_with_one_share():
    first, second = torch.zeros(3, 4, 5), torch.arange(1.0, 61.0).view(3, 4, 5)
    shares = []
    for seed in range(400):
        mixed = mix_tasks(first, second, mixing_share(devices.generator(seed)))
        ratio = (mixed / second).flatten()
        assert torch.allclose(ratio, ratio[:1])
        shares.append(1 - ratio[0].item())
    shares = torch.tensor(shares)
    assert ((shares >= 0) & (shares <= 1)).all()
    # Beta(½, ½): mean ½, variance ⅛.
    assert shares.mean().item() == pytest.approx(0.5, abs=0.05)
    assert shares.var().item() == pytest.approx(0.125, abs=0.015)


@pytest.mark.parametrize(("share", "times"), [(0.0, 0), (1.0, 6)])
def test_a_share_of_the_tasks_is_mixed(train, monkeypatch, share, times):
    calls = []
    monkeypatch.setattr(protonet, "mix_tasks", lambda *given: calls.append(1) or mix_tasks(*given))
    train(ProtoNetArm(steps=3, tasks_per_step=2, task_mixup=share))
    assert len(calls) == times


def test_one_task_is_a_plain_step_on_its_loss(train, fresh_learner, ensemble_of, episodes):
    arm = ProtoNetArm(steps=1, tasks_per_step=1, augment=False)
    learner, history = train(arm)
    start = fresh_learner().train()
    rng = devices.generator(0, "protonet", 0)
    task = int(torch.randint(len(episodes), (1,), generator=rng))
    images = protonet.episode_images(ensemble_of(start).images, episodes, task)
    features = start.features(images).unflatten(0, (3, 4))
    loss = episode_loss(features[:, :2], features[:, 2:], EPISODE_SCALE)
    assert history[0]["episode"] == pytest.approx(loss.item(), rel=1e-5)
    optimiser = torch.optim.AdamW(start.backbone.parameters(), lr=arm.learning_rate, weight_decay=0.01)
    torch.optim.lr_scheduler.OneCycleLR(optimiser, arm.learning_rate, total_steps=2)
    loss.backward()
    optimiser.step()
    for after, expected in zip(learner.backbone.parameters(), start.backbone.parameters(), strict=True):
        assert torch.allclose(after, expected, atol=1e-6)
    assert dataclasses.asdict(arm)["method"] == "protonet"
