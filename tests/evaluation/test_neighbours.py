import pytest
import torch

from datafree.evaluation import neighbours as module
from datafree.evaluation.neighbours import neighbours


def images(count, seed, size=6):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_neighbours_are_those_of_a_loop(monkeypatch, rows):
    monkeypatch.setattr(module, "ROWS", rows)
    recovered, real = images(5, 0), images(7, 1)
    found = neighbours(recovered, real)

    def difference(a, b):
        return (a.float() - b.float()).square().mean().sqrt().item()

    for i in range(5):
        distances = [difference(recovered[i], other) for other in real]
        assert found.distances[i].item() == pytest.approx(min(distances), rel=1e-5)
        assert found.nearest[i].item() == distances.index(min(distances))
    for i in range(7):
        others = [difference(real[i], real[j]) for j in range(7) if j != i]
        assert found.real_distances[i].item() == pytest.approx(min(others), rel=1e-5)


def test_copies_are_found_and_independent_images_are_not():
    real = images(200, 0)
    copies = neighbours(real[:20], real)
    assert copies.distances.max() == 0
    assert copies.ratio == 0
    assert copies.closer == 1
    assert copies.nearest.tolist() == list(range(20))
    independent = neighbours(images(200, 1), real)
    assert independent.ratio == pytest.approx(1, abs=0.05)
    assert independent.closer < 0.1
