import dataclasses

import pytest
import torch
from PIL import Image

from datafree import artifacts, checkpoints
from datafree.inversion.generator import new_generator
from datafree.stages import invert
from datafree.stages.files.pools import read_pool
from datafree.stages.files.teachers import read_teacher

METHODS, TEACHERS = ("five", "fresh"), ("alpha", "beta", "gamma")


def test_the_generator_file_holds_its_shape(project):
    outputs = project.outputs("meta_generator")
    shape = artifacts.read_metadata(outputs["generator"])
    assert shape == {"latent": 6, "width": 8, "classes": 4, "channels": 3, "size": 16, "conditional": True}
    generator = new_generator(**shape, seed=0)
    generator.load_state_dict(artifacts.read_tensors(outputs["generator"]))
    history = artifacts.read_history(outputs["history"])
    assert [row["step"] for row in history] == [1, 2]
    metrics = artifacts.read_json(outputs["metrics"])
    assert metrics == {f"final_{name}": pytest.approx(value, rel=1e-5) for name, value in history[-1].items() if name != "step"}


def test_a_killed_meta_generator_resumes_to_the_same_bytes(project, monkeypatch):
    expected = {name: path.read_bytes() for name, path in project.outputs("meta_generator").items()}

    def save_and_die(self, step, history, **objects):
        self.seconds_between = 0
        real(self, step, history, **objects)
        if self.path is not None and step == 1:
            raise KeyboardInterrupt

    real = checkpoints.Checkpoint.save
    monkeypatch.setattr(checkpoints.Checkpoint, "save", save_and_die)
    job = dataclasses.replace(
        project.job_of("meta_generator"), outputs={name: f"killed_meta_generator/{name}" for name in [*expected, "provenance"]}
    )
    with pytest.raises(KeyboardInterrupt):
        project.run(job)
    assert list((project.root / ".datafree/checkpoints").iterdir())
    assert not (project.root / "killed_meta_generator").exists()
    monkeypatch.undo()
    assert project.run(job) == expected
    assert not list((project.root / ".datafree/checkpoints").iterdir())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_pool_has_balanced_classes_and_the_teachers_predictions(project, method, teacher):
    outputs, zoo = project.outputs("invert", method, teacher), project.outputs("teacher", teacher)
    pool, network = read_pool(outputs["images"], zoo["card"]), read_teacher(zoo["weights"], zoo["card"])
    count = len(network.classes)
    assert pool.images.shape == (6 * count, 3, 16, 16)
    assert torch.bincount(pool.labels).tolist() == [6] * count
    probabilities = network.network(network.normalise(pool.images)).softmax(1)
    assert torch.allclose(pool.soft_labels.float(), probabilities, atol=1e-3)
    metrics = artifacts.read_json(outputs["metrics"])
    assert metrics["images"] == 6 * count
    assert metrics["teacher_accuracy"] == pytest.approx((probabilities.argmax(1) == pool.labels).float().mean().item())
    assert metrics["within_class_distance"] > 0
    assert artifacts.read_metadata(outputs["images"]) == {"teacher": teacher, "method": method, "seed": 0}
    with Image.open(outputs["preview"]) as picture:
        assert picture.size == (6 * 18 + 2, count * 18 + 2)


def test_methods_and_teachers_give_different_images(project):
    pools = [artifacts.read_tensors(project.outputs("invert", m, t)["images"])["images"][:6] for m in METHODS for t in TEACHERS]
    assert len({pool.numpy().tobytes() for pool in pools}) == 6


def test_without_auxiliary_teachers_a_pool_depends_on_other_teachers_only_through_the_generator(project, tmp_path):
    job = project.job_of("invert", "five", "beta")
    alone = {name: path for name, path in job.inputs.items() if name != "zoo"}
    assert not any(
        "alpha" in path or "gamma" in path for value in alone.values() for path in ([value] if isinstance(value, str) else value)
    )
    config = {**job.config, "inversion.auxiliary_teachers": 0}
    pools = [
        project.run(dataclasses.replace(job, config=config, inputs=inputs, outputs={n: str(tmp_path / f"{k}-{n}") for n in job.outputs}))
        for k, inputs in enumerate((job.inputs, alone))
    ]
    assert pools[0]["images"] == pools[1]["images"]
    assert pools[0]["images"] != project.outputs("invert", "five", "beta")["images"].read_bytes()


def test_only_methods_that_start_from_the_meta_generator_read_it(project, tmp_path):
    assert set(project.job_of("invert", "fresh", "beta").inputs) == {"weights", "card", "zoo"}
    job = project.job_of("invert", "five", "beta")
    generator = project.root / job.inputs["generator"]
    zeros = {name: torch.zeros_like(value) for name, value in artifacts.read_tensors(generator).items()}
    artifacts.write_tensors(tmp_path / "zeros", zeros, **artifacts.read_metadata(generator))
    other = dataclasses.replace(
        job, inputs={**job.inputs, "generator": str(tmp_path / "zeros")}, outputs={n: f"f/{n}" for n in job.outputs}
    )
    assert project.run(other)["images"] != project.outputs("invert", "five", "beta")["images"].read_bytes()


def test_the_last_row_of_the_history_is_in_the_metrics(project):
    outputs = project.outputs("invert", "fresh", "alpha")
    history, metrics = artifacts.read_history(outputs["history"]), artifacts.read_json(outputs["metrics"])
    assert [row["step"] for row in history] == [1, 2]
    final = {name.removeprefix("final_"): value for name, value in metrics.items() if name.startswith("final_")}
    assert final == {name: pytest.approx(value, rel=1e-5) for name, value in history[-1].items() if name != "step"}


def test_a_teacher_without_batch_norm_is_reported(project, monkeypatch, capsys):
    project.outputs("invert", "fresh", "alpha")
    job = project.job_of("invert", "fresh", "alpha")
    job = dataclasses.replace(job, outputs={name: f"without_batch_norm/{name}" for name in job.outputs})
    project.run(job)
    assert "BatchNorm" not in capsys.readouterr().err
    monkeypatch.setattr(invert, "batch_norm_layers", lambda network: [])
    project.run(job)
    lines = [line for line in capsys.readouterr().err.splitlines() if "BatchNorm" in line]
    assert lines == ["alpha: no BatchNorm layer; inversion.loss.batch_norm has no effect on this teacher"]
    monkeypatch.setitem(job.config["inversion.loss"], "batch_norm", 0.0)
    project.run(job)
    assert "BatchNorm" not in capsys.readouterr().err
