import pytest
import torch

from datafree.data.rendering import EXTENT, render


@pytest.fixture
def letter():
    """An L in one font: uint8 [1, 64, 64]."""
    mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
    mask[:, :, 10:22] = 255
    mask[:, 52:, 10:54] = 255
    return mask


def images(masks, difficulty, count=30, size=32, seed=0):
    return render(masks, count, size, difficulty, torch.Generator().manual_seed(seed))


def contrast(rendered):
    """Grey values of each image rescaled to [0, 1]: float [N, H, W]."""
    grey = rendered.float().mean(1)
    low, high = grey.amin((1, 2), keepdim=True), grey.amax((1, 2), keepdim=True)
    return (grey - low) / (high - low)


@pytest.mark.parametrize("size", [16, 32, 100])
def test_images_have_the_requested_size_and_use_the_full_range(letter, size):
    rendered = images(letter, 0.75, size=size)
    assert rendered.shape == (30, 3, size, size)
    assert rendered.dtype == torch.uint8
    assert rendered.min() < 20
    assert rendered.max() > 235


def test_the_generator_determines_the_images(letter):
    assert torch.equal(images(letter, 0.75), images(letter, 0.75))
    assert not torch.equal(images(letter, 0.75), images(letter, 0.75, seed=1))
    assert not torch.equal(*images(letter, 0.75, count=2))


def test_at_difficulty_0_images_of_one_font_differ_only_in_colour(letter):
    rendered = images(letter, 0)
    clean = contrast(rendered)
    assert (clean - clean[0]).abs().max() < 0.05  # rounding to bytes, in the image of least contrast
    assert rendered[:, :, 0, 0].float().std(0).min() > 5
    border = torch.cat([rendered[:, :, :4].flatten(2), rendered[:, :, -4:].flatten(2)], 2)
    assert (border == border[:, :, :1]).all()


def test_an_undistorted_glyph_has_the_size_of_EXTENT():
    full = torch.full((1, 64, 64), 255, dtype=torch.uint8)
    bright = contrast(images(full, 0, size=100)) > 0.5
    assert bright.any(1).sum(1).sub(100 * EXTENT).abs().max() <= 2
    assert bright.any(2).sum(1).sub(100 * EXTENT).abs().max() <= 2


def test_a_glyph_is_brighter_than_its_background(letter):
    rendered = images(letter, 0, count=200).float()
    ink = contrast(rendered)[0] > 0.99
    blank = contrast(rendered)[0] < 0.01
    assert (rendered[:, :, ink].mean(2) > rendered[:, :, blank].mean(2)).all()


def test_difficulty_increases_the_variation_within_a_class(letter):
    spread = [contrast(images(letter, difficulty, count=100)).std(0).mean() for difficulty in (0, 0.25, 0.5, 1)]
    assert spread == sorted(spread)
    assert spread[-1] > 1.5 * spread[1] > 0


def test_every_font_is_used(letter):
    fonts = torch.cat([letter, torch.full_like(letter, 255)])
    share = (contrast(images(fonts, 0, count=200)) > 0.5).float().mean((1, 2))
    full = share > EXTENT**2 * 0.9
    assert 50 < full.sum() < 150
