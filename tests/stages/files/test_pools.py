"""Reading recovered pools from files."""

import pytest
import torch

from datafree import artifacts
from datafree.errors import UserError
from datafree.stages.files.pools import read_pool, read_pools


@pytest.fixture
def written(tmp_path, pools, teachers):
    for number, pool in enumerate(pools):
        tensors = {"images": pool.images, "labels": pool.labels, "soft_labels": pool.soft_labels}
        artifacts.write_tensors(tmp_path / f"{number}.safetensors", tensors, teacher="x")
        artifacts.write_json(tmp_path / f"{number}.json", {"classes": list(pool.classes)})
    return tmp_path


def test_pools_come_back_in_order(written, pools):
    found = read_pools([written / f"{n}.safetensors" for n in range(3)], [written / f"{n}.json" for n in range(3)])
    for read, pool in zip(found, pools, strict=True):
        assert read.classes == pool.classes
        assert (read.images.dtype, read.labels.dtype, read.soft_labels.dtype) == (torch.uint8, torch.int64, torch.float16)
        assert all(torch.equal(getattr(read, part), getattr(pool, part)) for part in ("images", "labels", "soft_labels"))


def test_a_pool_needs_its_card_and_all_its_tensors(written):
    with pytest.raises(UserError, match=r"9.json: the file is missing"):
        read_pool(written / "0.safetensors", written / "9.json")
    artifacts.write_tensors(written / "0.safetensors", {"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)})
    with pytest.raises(UserError, match="expected a tensor `labels`"):
        read_pool(written / "0.safetensors", written / "0.json")
    with pytest.raises(ValueError, match="shorter"):
        read_pools([written / "1.safetensors"], [])
