from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datafree.checkpoints import Checkpoint
from datafree.config import BackboneConfig
from datafree.distillation.fidelity import student_fidelity
from datafree.errors import UserError
from datafree.nas.retrain import retrain
from datafree.nas.spaces.nasbench201.genotype import decode
from datafree.nas.spaces.nasbench201.space import NasBench201Space

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"


def _retrain(pools, config, checkpoint=None, seed=0, cell=CELL):
    return retrain(
        pools, BackboneConfig("nasbench201", config.channels, cell, config.cells), config, seed, "cpu", checkpoint or Checkpoint(None)
    )


def test_the_network_learns_the_teachers_predictions(joined, small):
    result = _retrain(joined, replace(small, retrain_steps=80, batch_size=32))
    chance = sum(len(joined.teacher[joined.teacher == t]) / count for t, count in enumerate(joined.classes)) / len(joined.images)
    assert result.score.agreement > chance + 0.3
    assert result.curve[-1]["loss"] < 0.5 * result.curve[0]["loss"]


def test_the_score_is_on_the_images_held_out_in_the_search(joined, small):
    result = _retrain(joined, small)
    _, held_out = joined.split(small.validation, 0)
    assert not result.network.training
    assert result.held_out == len(held_out)
    again = student_fidelity(lambda batch: result.network(batch.images, batch.teacher), joined, held_out, small.temperature)
    assert again == result.score


def test_the_backbone_is_the_network_of_the_cell(joined, small):
    backbone = _retrain(joined, replace(small, retrain_steps=1)).network.backbone
    assert sum(p.numel() for p in backbone.parameters()) == NasBench201Space(4, 1, 16).parameters(decode(CELL))


def test_the_same_seed_gives_the_same_weights(joined, small):
    first, second, other = (_retrain(joined, small, seed=seed).network.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_a_killed_retraining_resumes_to_the_same_weights(joined, small, interrupted):
    resumed = interrupted(lambda checkpoint: _retrain(joined, small, checkpoint), deaths=[3, 5], every=2)
    uninterrupted = _retrain(joined, small)
    assert (resumed.curve, resumed.score) == (uninterrupted.curve, uninterrupted.score)
    weights = uninterrupted.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.network.state_dict().items())


def test_a_malformed_cell_is_refused(joined, small):
    with pytest.raises(UserError, match="genotype: expected the form"):
        _retrain(joined, small, cell="searched")
