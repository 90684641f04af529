import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree import devices
from datafree.inversion.regions import Region, crop, random_region, region_mask


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 1), st.integers(0, 5))
def test_a_region_lies_inside_the_image_and_has_its_share(height, width, share, seed):
    region = random_region(height, width, share, devices.generator(seed, "region"))
    assert 0 <= region.top <= height - region.height
    assert 0 <= region.left <= width - region.width
    assert abs(region.height - share * height) <= 0.5 or region.height == 1
    assert abs(region.width - share * width) <= 0.5 or region.width == 1


def test_regions_reach_every_offset_and_the_published_size_is_224_of_256():
    rng = devices.generator(0, "region")
    regions = [random_region(256, 256, 0.875, rng) for _ in range(600)]
    assert {(region.height, region.width) for region in regions} == {(224, 224)}
    for offsets in ({region.top for region in regions}, {region.left for region in regions}):
        assert offsets == set(range(33))
    assert random_region(32, 32, 1.0, rng) == Region(0, 0, 32, 32)


def test_the_gradient_is_zero_outside_the_region_like_the_mask():
    images, region = torch.randn(2, 3, 8, 6, requires_grad=True), Region(2, 1, 4, 3)
    part = crop(images, region)
    assert torch.equal(part, images[:, :, 2:6, 1:4])
    part.square().sum().backward()
    mask = region_mask(8, 6, region)
    assert mask.shape == (1, 1, 8, 6)
    assert mask.sum() == 12
    assert torch.equal(images.grad, 2 * images.detach() * mask)
