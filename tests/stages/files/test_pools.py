"""Reading recovered pools from files."""

from pathlib import Path

import pytest
import torch

from datafree import artifacts
from datafree.errors import UserError
from datafree.stages.files.pools import read_pool, read_pools
from tests.index_files import write_index


@pytest.fixture
def written(tmp_path, pools, teachers, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, pool in enumerate(pools):
        tensors = {"images": pool.images, "labels": pool.labels, "soft_labels": pool.soft_labels}
        artifacts.write_tensors(f"{number}/images.safetensors", tensors, teacher="x")
        artifacts.write_json(f"{number}/card.json", {"classes": list(pool.classes)})
    return tmp_path


def test_pools_come_back_in_order(written, pools):
    index = write_index(written / "pools.json", {str(n): [f"{n}/images.safetensors"] for n in range(3)}, written)
    zoo = write_index(written / "zoo.json", {str(n): [f"{n}/card.json"] for n in range(3)}, written)
    found = read_pools(Path(index), Path(zoo))
    for read, pool in zip(found, pools, strict=True):
        assert read.classes == pool.classes
        assert (read.images.dtype, read.labels.dtype, read.soft_labels.dtype) == (torch.uint8, torch.int64, torch.float16)
        assert all(torch.equal(getattr(read, part), getattr(pool, part)) for part in ("images", "labels", "soft_labels"))


def test_a_pool_needs_its_card_and_all_its_tensors(written):
    with pytest.raises(UserError, match=r"9.json: the file is missing"):
        read_pool(written / "0/images.safetensors", written / "9.json")
    artifacts.write_tensors("0/images.safetensors", {"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)})
    with pytest.raises(UserError, match="expected a tensor `labels`"):
        read_pool(written / "0/images.safetensors", written / "0/card.json")
