import copy

import pytest
import torch

from datafree import devices
from datafree.inversion.pixel_parameters import CONTRAST, GREY, REACH, PixelParameters, coarse_steps, stage_share
from datafree.inversion.regions import Region, crop

CPU = torch.device("cpu")


def canvas(**changes) -> PixelParameters:
    settings = {"device": CPU, "learning_rate": 0.1, "betas": (0.5, 0.9), **changes}
    return PixelParameters(**settings)


def rng():
    return devices.generator(0, "canvas")


def test_images_start_as_noise_within_black_and_white():
    made = canvas()
    made.start(5, 8, rng())
    expected = torch.randn(5, 3, 8, 8, generator=rng()).clamp(-REACH, REACH)
    assert torch.equal(made.images(), GREY + CONTRAST * expected)
    assert made.images().min() >= 0
    assert made.images().max() <= 1


def test_a_step_is_adams_first_and_stays_within_reach():
    made = canvas(learning_rate=0.1)
    made.place(torch.tensor([0.0, REACH, -REACH, 0.5]).view(1, 1, 2, 2))
    slope = torch.tensor([1.0, -1.0, 1.0, -2.0]).view(1, 1, 2, 2)
    made.step((made.pixels * slope).sum(), 0.0)
    assert torch.allclose(made.pixels, torch.tensor([-0.1, REACH, -REACH, 0.6]).view(1, 1, 2, 2), atol=1e-6)


def test_the_rate_falls_along_a_cosine():
    for share, rate in ((0, 0.1), (0.5, 0.05), (1, 0.0)):
        made = canvas(learning_rate=0.1)
        made.place(torch.zeros(1, 3, 2, 2))
        made.step(-made.pixels.sum(), share)
        assert torch.allclose(made.pixels, torch.full((1, 3, 2, 2), rate), atol=1e-6)


def test_enlarging_keeps_what_is_drawn():
    made = canvas()
    made.place(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2).repeat_interleave(2, 2).expand(1, 3, 2, 2))
    made.enlarge(8)
    assert made.pixels.shape == (1, 3, 8, 8)
    assert torch.allclose(made.pixels[..., 0], torch.tensor(-1.0))
    assert torch.allclose(made.pixels[..., -1], torch.tensor(1.0))
    assert made.optimiser.param_groups[0]["params"][0] is made.pixels


def test_finished_images_are_rounded_and_kept():
    made = canvas()
    made.place(torch.full((2, 3, 2, 2), 0.5))
    made.finish(0)
    made.place(torch.full((1, 3, 2, 2), -9.0))
    made.finish(1)
    assert [part.dtype for part in made.finished] == [torch.uint8, torch.uint8]
    assert torch.equal(made.finished[0], torch.full((2, 3, 2, 2), round(255 * (GREY + CONTRAST * 0.5)), dtype=torch.uint8))
    assert torch.equal(made.finished[1], torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    made.finish(0)  # made anew
    assert len(made.finished) == 2
    assert torch.equal(made.finished[0], made.finished[1])


def test_some_images_move_and_others_stay():
    made = canvas()
    made.place(torch.zeros(4, 3, 2, 2))
    made.step(made.images(torch.tensor([1, 3])).sum(), 0.0)
    assert (made.pixels[[1, 3]] < 0).all()
    assert (made.pixels[[0, 2]] == 0).all()


def test_a_state_goes_on_as_if_nothing_had_happened():
    first, second = canvas(), canvas()
    first.start(3, 4, rng())
    first.finish(0)
    first.step(first.pixels.square().sum(), 0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for made in (first, second):
        made.step((made.pixels - 1).square().sum(), 0.2)
        made.finish(1)
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(torch.cat(first.finished), torch.cat(second.finished))
    assert first.pixels.data_ptr() != second.pixels.data_ptr()


def test_outside_its_region_a_step_changes_nothing():
    made = canvas()
    made.start(2, 6, rng())
    made.step(made.pixels.square().sum(), 0.0)  # from now on Adam has momentum everywhere
    before, region = made.pixels.detach().clone(), Region(1, 2, 3, 4)
    made.step((crop(made.images(), region)).sum(), 0.0, region)
    moved = (made.pixels != before).all(0).all(0)
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[1:4, 2:6] = True
    assert torch.equal(moved, expected)
    assert torch.equal(made.pixels != before, expected.expand(2, 3, 6, 6))


@pytest.mark.parametrize(("share", "steps", "coarse"), [(0.4, 10, 4), (0.0, 10, 0), (0.95, 10, 9), (0.95, 2, 1), (0.9, 1, 0)])
def test_the_last_step_is_never_a_coarse_one_and_each_stage_starts_anew(share, steps, coarse):
    assert coarse_steps(share, steps) == coarse
    shares = [stage_share(step, coarse, steps) for step in range(steps)]
    assert shares == [step / coarse for step in range(coarse)] + [step / (steps - coarse) for step in range(steps - coarse)]
