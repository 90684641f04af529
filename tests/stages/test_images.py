import numpy as np
import pytest
from PIL import Image

from datafree import artifacts, config
from datafree.data import SPLITS
from datafree.errors import UserError
from datafree.stages import images as stage
from datafree.stages.files.image_sets import read_image_set
from datafree.workflow.provenance import Job

FILES = {**{split: f"{split}.safetensors" for split in SPLITS}, "preview": "preview.png", "metrics": "metrics.json"}


def run(folder, settings):
    resolved = config.resolve({"seed": 3, "data": settings, "evaluation": {"way": 2, "shots": [1], "query": 1}})
    outputs = {name: str(folder / file) for name, file in FILES.items()} | {"provenance": str(folder / "provenance.json")}
    stage.run(Job("images", {}, config.select(resolved, "data", "seed"), "", {}, outputs))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


GLYPHS = {
    "image_size": 20,
    "glyphs": {
        "classes": {"train": 3, "validation": 2, "test": 4},
        "images_per_class": {"train": 5, "validation": 2, "test": 3},
    },
}


def test_glyphs_become_image_sets_with_a_preview_and_counts(tmp_path):
    written = run(tmp_path / "a", GLYPHS)
    assert set(written) == set(FILES.values())
    metrics = artifacts.read_json(tmp_path / "a" / "metrics.json")
    for split, classes, count in (("train", 3, 5), ("validation", 2, 2), ("test", 4, 3)):
        found = read_image_set(tmp_path / "a" / FILES[split])
        assert found.images.shape == (classes * count, 3, 20, 20)
        assert metrics[split]["classes"] == len(found.classes) == classes
        assert metrics[split]["images"] == classes * count
        assert metrics[split]["sha256"] == artifacts.sha256(tmp_path / "a" / FILES[split])
    with Image.open(tmp_path / "a" / "preview.png") as picture:
        assert picture.size[1] == (3 + 1 + 2 + 1 + 4) * 22 + 2
    assert run(tmp_path / "b", GLYPHS) == written


@pytest.fixture
def photos(tmp_path):
    for split in SPLITS:
        for index, name in enumerate(("x", "y")):
            (tmp_path / "photos" / split / f"{split}-{name}").mkdir(parents=True)
            Image.new("RGB", (30, 30), (100 * index, 50, 0)).save(tmp_path / "photos" / split / f"{split}-{name}" / "1.png")
    return tmp_path / "photos"


def test_folders_become_image_sets_and_a_changed_file_changes_the_metrics(tmp_path, photos):
    settings = {"source": "folder", "folder": str(photos), "image_size": 16}
    run(tmp_path / "out", settings)
    before = artifacts.read_json(tmp_path / "out" / "metrics.json")
    found = read_image_set(tmp_path / "out" / "test.safetensors")
    assert found.classes == ("test-x", "test-y")
    assert np.allclose(found.images[:, :, 0, 0], [[0, 50, 0], [100, 50, 0]])
    Image.new("RGB", (30, 30), "white").save(photos / "test" / "test-x" / "1.png")
    run(tmp_path / "out", settings)
    after = artifacts.read_json(tmp_path / "out" / "metrics.json")
    assert after["train"] == before["train"]
    assert after["test"]["sha256"] != before["test"]["sha256"]


def test_a_class_in_two_splits_is_refused_before_anything_is_written(tmp_path, photos):
    (photos / "test" / "test-x").rename(photos / "test" / "train-x")
    with pytest.raises(UserError, match="'train-x' is in train and in test"):
        run(tmp_path / "out", {"source": "folder", "folder": str(photos)})
    assert not (tmp_path / "out").exists()
