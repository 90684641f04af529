"""The CUDA paths, on a machine with a GPU: ``make test-gpu``."""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datafree import artifacts, devices
from datafree.checkpoints import Checkpoint
from datafree.config import (
    AnilArm,
    BackboneConfig,
    BellArm,
    GeneratorInversion,
    IgrArm,
    InversionConfig,
    MamlArm,
    MetaGeneratorConfig,
    PixelInversion,
    ProtoNetArm,
    ReplayConfig,
    TasksConfig,
)
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.distillation.joined_pools import JoinedPools
from datafree.inversion import METHODS, Recovery
from datafree.inversion.generator import new_generator
from datafree.inversion.meta_generator import train_meta_generator
from datafree.inversion.rows import OtherTeachers
from datafree.meta import ARMS
from datafree.meta.learner import Learner
from datafree.tasks.episodes import sample_episodes
from datafree.tasks.pools import Pool
from datafree.tasks.reliability import teacher_reliability
from datafree.zoo.backbones import Normalise, build
from datafree.zoo.teacher_passes import outputs_of_all
from datafree.zoo.teachers import freeze, move, soft_labels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),  # in a thread of autograd
]
PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """Convolutions in float32, not TF32, whose rounding exceeds the tolerances."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def zoo(make_teacher):
    names = ("ant", "bee", "cat", "dog")
    return tuple(move(make_teacher(f"teacher-{seed}", names, seed), "cuda") for seed in range(4))


def recover(zoo, method, *, together, **settings):
    start = new_generator(8, 8, 4, 3, 32, seed=0).to("cuda") if isinstance(method, GeneratorInversion) else None
    recoveries = [Recovery(teacher, place, Checkpoint(None), OtherTeachers(zoo, place)) for place, teacher in enumerate(zoo)]
    shared = InversionConfig(images_per_class=6, **settings)
    return dict(METHODS[method.method](recoveries, method, shared, size=32, start=start, together=together))


@pytest.mark.parametrize("method", [PixelInversion(steps=4, batch_size=12), GeneratorInversion(steps=4, batch_size=12)])
def test_pools_of_one_pass_agree_with_single_ones(zoo, method):
    single, together = (recover(zoo, method, together=flag) for flag in (False, True))
    for place in range(4):
        first, second = single[place].history[0], together[place].history[0]
        assert all(first[name] == pytest.approx(second[name], rel=1e-3, abs=1e-4) for name in first)
        difference = (single[place].images.float() - together[place].images.float()).abs()
        assert difference.mean() < 1.0  # of 255; rounding differences grow from step to step


@pytest.mark.parametrize("method", [PixelInversion(steps=4, batch_size=12), GeneratorInversion(steps=4, batch_size=12)])
@pytest.mark.filterwarnings("ignore")  # of the compiler's own modules, such as advice to compute in TF32
def test_a_compiled_pass_agrees_with_one_that_is_not(zoo, method):
    plain, compiled = (recover(zoo, method, together=True, compile=flag) for flag in (False, True))
    for place in range(4):
        first, second = plain[place].history[0], compiled[place].history[0]
        assert all(first[name] == pytest.approx(second[name], rel=1e-3, abs=1e-4) for name in first)
        assert (plain[place].images.float() - compiled[place].images.float()).abs().mean() < 1.0


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


def in_float64(teacher):
    network, normalise = copy.deepcopy(teacher.network).double(), copy.deepcopy(teacher.normalise).double()
    return dataclasses.replace(teacher, network=freeze(network), normalise=normalise)


@pytest.fixture
def exact(zoo):
    """The zoo in float64, in which a loop and a stack agree to 1e-6 whatever their kernels."""
    return [in_float64(teacher) for teacher in zoo]


@pytest.fixture
def pools_of_zoo(zoo, make_images):
    made = []
    for number, teacher in enumerate(zoo):
        images, labels = make_images(4, 10, 32, 20 + number)
        made.append(Pool(images, labels, soft_labels(teacher, images), teacher.classes))
    return made


def test_the_reliability_of_teachers_in_stacks_is_that_of_single_ones(exact, pools_of_zoo):
    results = [teacher_reliability(pools_of_zoo, exact, seed=0, device="cuda", together=flag) for flag in (False, True)]
    for single, stacked in zip(*results, strict=True):
        for name in ("weight", "agreement", "compactness", "recovery", "statistics_distance", "score"):
            assert getattr(stacked, name) == pytest.approx(getattr(single, name), rel=1e-6, abs=1e-6)


def test_the_features_and_logits_of_all_teachers_are_those_of_each(exact, pools_of_zoo):
    images = pools_of_zoo[0].images
    for teacher, (features, logits) in zip(exact, outputs_of_all(exact, images), strict=True):
        assert features.device.type == logits.device.type == "cpu"
        expected = teacher.features(images.to("cuda"))
        assert torch.allclose(features, expected.cpu(), rtol=1e-6, atol=1e-6)
        assert torch.allclose(logits, teacher.network.head(expected).cpu(), rtol=1e-6, atol=1e-6)


ARMS_TOGETHER = {
    "maml": MamlArm(steps=2, tasks_per_step=3, inner_steps=2, distillation=0.3),
    "anil": AnilArm(steps=2, tasks_per_step=3, inner_steps=2),
    "protonet": ProtoNetArm(steps=2, tasks_per_step=3, task_mixup=0.5),
    "igr": IgrArm(steps=2, tasks_per_step=3, groups=2),
    "bell": BellArm(steps=2, tasks_per_step=3, replay=ReplayConfig(episodes=2, inner_steps=2, patience=1)),
}


@pytest.mark.parametrize("name", ARMS_TOGETHER)
def test_an_arm_learns_the_same_together(name, exact, pools_of_zoo):
    arm, device = ARMS_TOGETHER[name], torch.device("cuda")
    episodes = sample_episodes(pools_of_zoo, [1.0] * 4, TasksConfig(way=3, shot=2, query=2, episodes=12, mixed=0.5), seed=0)
    histories = []
    for together in (False, True):
        backbone = build(BackboneConfig("conv4_strided", 8), 3, 32, seed=0)
        with devices.seeded_initialisation(0):
            heads = TeacherHeads(backbone.feature_size, [4] * 4)
        learner = Learner(backbone, heads, Normalise([0.45] * 3, [0.22] * 3)).double().to(device)
        ensemble = TeacherEnsemble(exact, pools_of_zoo, learner.normalise, device, torch.ones(4), together)
        histories.append(ARMS[arm.method](learner, ensemble, episodes, arm, 0, Checkpoint(None)))
    for loop, stacked in zip(*histories, strict=True):
        assert stacked == pytest.approx(loop, rel=1e-6, abs=1e-6)


def test_images_stay_on_the_device_and_batches_do_not_wait_for_it(zoo, pools_of_zoo):
    device = torch.device("cuda")
    ensemble = TeacherEnsemble(zoo, pools_of_zoo, Normalise([0.5] * 3, [0.25] * 3).to(device), device, torch.ones(4), together=True)
    joined = JoinedPools.join(pools_of_zoo, Normalise([0.5] * 3, [0.25] * 3))
    placed, index = joined.to(device), torch.tensor([3, 150, 3, 77])
    assert placed.images.device.type == device.type and placed.images.dtype == torch.uint8
    chosen, rows = torch.tensor([2, 0]), torch.tensor([[0, 39], [3, 5]])

    def step():
        views = ensemble.views(ensemble.images.at(chosen, rows), devices.generator(0), augment=True)
        return ensemble.predict(views, [0, 2]), placed.batch(index)

    step()  # warm-up
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, batch = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(ensemble.images.at(chosen, rows).cpu(), torch.cat([pools_of_zoo[2].images[[0, 39]], pools_of_zoo[0].images[[3, 5]]]))
    assert torch.allclose(batch.images.cpu(), joined.batch(index).images, atol=1e-5)
    assert torch.equal(batch.soft_labels.cpu(), joined.batch(index).soft_labels)


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
