import copy

import pytest
import torch

from datafree import devices
from datafree.inversion.pixel_parameters import CONTRAST, GREY, LIMIT, PixelParameters, SavedPixels, coarse_steps, stage_share
from datafree.inversion.regions import Region, crop, region_mask

CPU = torch.device("cpu")


def parameters(**changes) -> PixelParameters:
    settings = {"device": CPU, "learning_rate": 0.1, "betas": (0.5, 0.9), **changes}
    return PixelParameters(**settings)


def rng():
    return devices.generator(0, "pixels")


def test_images_start_as_noise_between_black_and_white():
    batch = parameters()
    noise = torch.randn(5, 3, 8, 8, generator=rng())
    batch.place(noise)
    assert torch.equal(batch.images(), GREY + CONTRAST * noise.clamp(-LIMIT, LIMIT))
    assert batch.images().min() >= 0
    assert batch.images().max() <= 1


def test_a_step_is_adams_first_clamped_to_the_limit():
    batch = parameters(learning_rate=0.1)
    batch.place(torch.tensor([0.0, LIMIT, -LIMIT, 0.5]).view(1, 1, 2, 2))
    gradient = torch.tensor([1.0, -1.0, 1.0, -2.0]).view(1, 1, 2, 2)
    batch.step((batch.pixels * gradient).sum(), 0.0)
    assert torch.allclose(batch.pixels, torch.tensor([-0.1, LIMIT, -LIMIT, 0.6]).view(1, 1, 2, 2), atol=1e-6)


def test_the_learning_rate_follows_a_cosine():
    for share, rate in ((0, 0.1), (0.5, 0.05), (1, 0.0)):
        batch = parameters(learning_rate=0.1)
        batch.place(torch.zeros(1, 3, 2, 2))
        batch.step(-batch.pixels.sum(), share)
        assert torch.allclose(batch.pixels, torch.full((1, 3, 2, 2), rate), atol=1e-6)


def test_enlarging_interpolates_the_images():
    batch = parameters()
    batch.place(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2).repeat_interleave(2, 2).expand(1, 3, 2, 2))
    batch.enlarge(8)
    assert batch.pixels.shape == (1, 3, 8, 8)
    assert torch.allclose(batch.pixels[..., 0], torch.tensor(-1.0))
    assert torch.allclose(batch.pixels[..., -1], torch.tensor(1.0))
    assert batch.optimiser.param_groups[0]["params"][0] is batch.pixels


def test_finished_images_are_rounded_and_stored_by_the_number_of_their_batch():
    batch, saved = parameters(), SavedPixels()
    batch.place(torch.full((2, 3, 2, 2), 0.5))
    saved.finish(0, batch.finished())
    batch.place(torch.full((1, 3, 2, 2), -9.0))
    saved.finish(1, batch.finished())
    assert [part.dtype for part in saved.finished] == [torch.uint8, torch.uint8]
    assert torch.equal(saved.finished[0], torch.full((2, 3, 2, 2), round(255 * (GREY + CONTRAST * 0.5)), dtype=torch.uint8))
    assert torch.equal(saved.finished[1], torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    saved.finish(0, batch.finished())  # replaces the first batch
    assert len(saved.finished) == 2
    assert torch.equal(saved.finished[0], saved.finished[1])


def test_only_images_in_the_loss_change():
    batch = parameters()
    batch.place(torch.zeros(4, 3, 2, 2))
    batch.step(batch.images(torch.tensor([1, 3])).sum(), 0.0)
    assert (batch.pixels[[1, 3]] < 0).all()
    assert (batch.pixels[[0, 2]] == 0).all()


def test_restored_states_of_rows_continue_identically():
    first, second = parameters(), parameters()
    first.place(torch.randn(3, 2, 3, 4, 4, generator=rng()))
    first.step(first.pixels.square().sum(), 0.1)
    second.restore(copy.deepcopy([first.state(slice(2, 3)), first.state(slice(0, 2))]))  # of two recoveries, in another order
    for batch in (first, second):
        batch.step((batch.pixels - 1).square().sum(), 0.2)
    assert torch.equal(first.pixels[[2, 0, 1]], second.pixels)
    assert first.pixels.data_ptr() != second.pixels.data_ptr()


def test_a_step_changes_nothing_but_the_changeable_pixels():
    batch = parameters()
    batch.place(torch.randn(2, 3, 6, 6, generator=rng()))
    batch.step(batch.pixels.square().sum(), 0.0)  # gives Adam momentum everywhere
    before, region = batch.pixels.detach().clone(), Region(1, 2, 3, 4)
    batch.step((crop(batch.images(), region)).sum(), 0.0, region_mask(6, 6, region) > 0)
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[1:4, 2:6] = True
    assert torch.equal(batch.pixels != before, expected.expand(2, 3, 6, 6))


@pytest.mark.parametrize(("share", "steps", "coarse"), [(0.4, 10, 4), (0.0, 10, 0), (0.95, 10, 9), (0.95, 2, 1), (0.9, 1, 0)])
def test_the_last_step_is_never_coarse_and_the_share_restarts_with_each_stage(share, steps, coarse):
    assert coarse_steps(share, steps) == coarse
    shares = [stage_share(step, coarse, steps) for step in range(steps)]
    assert shares == [step / coarse for step in range(coarse)] + [step / (steps - coarse) for step in range(steps - coarse)]
