"""The CUDA paths, on a machine with a GPU: ``make test-gpu``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datafree import artifacts, devices
from datafree.checkpoints import Checkpoint
from datafree.config import GeneratorInversion, InversionConfig, MetaGeneratorConfig, PixelInversion
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.inversion import METHODS, Recovery
from datafree.inversion.generator import new_generator
from datafree.inversion.meta_generator import train_meta_generator
from datafree.inversion.rows import OtherTeachers
from datafree.zoo.backbones import Normalise
from datafree.zoo.teachers import move

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
PROJECT = Path(__file__).parents[1]


@pytest.fixture
def zoo(make_teacher):
    names = ("ant", "bee", "cat", "dog")
    return tuple(move(make_teacher(f"teacher-{seed}", names, seed), "cuda") for seed in range(4))


def recover(zoo, method, *, together):
    start = new_generator(8, 8, 4, 3, 32, seed=0).to("cuda") if isinstance(method, GeneratorInversion) else None
    recoveries = [Recovery(teacher, place, Checkpoint(None), OtherTeachers(zoo, place)) for place, teacher in enumerate(zoo)]
    shared = InversionConfig(images_per_class=6)
    return dict(METHODS[method.method](recoveries, method, shared, size=32, start=start, together=together))


@pytest.mark.parametrize("method", [PixelInversion(steps=4, batch_size=12), GeneratorInversion(steps=4, batch_size=12)])
def test_pools_of_one_pass_agree_with_single_ones(zoo, method):
    single, together = (recover(zoo, method, together=flag) for flag in (False, True))
    for place in range(4):
        first, second = single[place].history[0], together[place].history[0]
        assert all(first[name] == pytest.approx(second[name], rel=1e-3, abs=1e-4) for name in first)
        difference = (single[place].images.float() - together[place].images.float()).abs()
        assert difference.mean() < 1.0  # of 255; rounding differences grow from step to step


def test_a_pass_waits_for_the_device_only_to_read_its_history(zoo):
    method = PixelInversion(steps=6, batch_size=24)
    recover(zoo, method, together=True)  # warm-up
    from datafree.inversion import pixels

    waits = []
    original = pixels.objective_of

    def watched(*args, **kwargs):
        objective = original(*args, **kwargs)

        def call(*inputs, **options):
            torch.cuda.set_sync_debug_mode("error")
            try:
                return objective(*inputs, **options)
            except RuntimeError as error:
                waits.append(str(error))
                raise
            finally:
                torch.cuda.set_sync_debug_mode("default")

        call.learn = objective.learn
        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "objective_of", watched)
        recover(zoo, method, together=True)
    assert not waits


def test_the_meta_generator_of_one_pass_agrees_with_single_inner_loops(zoo):
    settings = MetaGeneratorConfig(outer_steps=3, inner_steps=2, teachers_per_step=2, batch_size=12)
    found = []
    for together in (False, True):
        generator = new_generator(8, 8, 4, 3, 32, seed=0).to("cuda")
        found.append(train_meta_generator(generator, zoo, settings, InversionConfig(), 0, Checkpoint(None), together=together))
    for first, second in zip(*found, strict=True):
        assert all(first[name] == pytest.approx(second[name], rel=1e-2, abs=1e-3) for name in first)


def test_the_predictions_of_all_teachers_are_those_of_each(zoo, pools):
    ensemble = TeacherEnsemble(zoo, pools, Normalise([0.5] * 3, [0.25] * 3).to("cuda"), torch.device("cuda"), torch.ones(4), together=True)
    views = torch.randn(10, 3, 32, 32, generator=devices.generator(0, "views")).to("cuda")
    predictions = ensemble.predict(views, [2, 0, 3])
    for column, place in enumerate([2, 0, 3]):
        raw = (views * 0.25 + 0.5) * 255
        with torch.no_grad():
            expected = zoo[place].network(zoo[place].normalise(raw)).softmax(1)
        assert torch.allclose(predictions[:, column], expected, atol=1e-3)


def test_the_smoke_preset_runs_and_its_table_is_complete(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    command = [sys.executable, "-m", "snakemake", "--snakefile", PROJECT / "Snakefile", "--directory", tmp_path, "--cores", "2"]
    command += ["--resources", "gpu=1", "--configfile", PROJECT / "params.yaml", PROJECT / "presets/smoke.yaml"]
    subprocess.run([str(part) for part in command], env=environment, check=True, timeout=600)
    results = artifacts.read_json(tmp_path / "artifacts/evaluation/few_shot/results.json")
    assert results
    card = artifacts.read_json(tmp_path / "artifacts/meta/bell/seed0/card.json")
    assert "cuda" in str(card["computed_on"])


def test_memory_that_runs_out_halves_the_pass(zoo):
    whole = recover(zoo, PixelInversion(steps=2, batch_size=24), together=True)
    torch.cuda.empty_cache()
    taken = torch.cuda.mem_get_info()[0]
    hold = torch.empty(int(taken * 0.999) - (64 << 20), dtype=torch.uint8, device="cuda")
    try:
        small = recover(zoo, PixelInversion(steps=2, batch_size=24), together=True)
    finally:
        del hold
    for place in range(4):
        assert (whole[place].images.float() - small[place].images.float()).abs().mean() < 1.0
