import copy

import torch

from datafree import devices
from datafree.inversion.canvas import CONTRAST, GREY, REACH, Canvas

CPU = torch.device("cpu")


def canvas(**changes) -> Canvas:
    settings = {"device": CPU, "learning_rate": 0.1, "betas": (0.5, 0.9), **changes}
    return Canvas(**settings)


def draw():
    return devices.generator(0, "canvas")


def test_images_start_as_noise_within_black_and_white():
    made = canvas()
    made.start(5, 8, draw())
    expected = torch.randn(5, 3, 8, 8, generator=draw()).clamp(-REACH, REACH)
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
    made.finish()
    made.place(torch.full((1, 3, 2, 2), -9.0))
    made.finish()
    assert [part.dtype for part in made.finished] == [torch.uint8, torch.uint8]
    assert torch.equal(made.finished[0], torch.full((2, 3, 2, 2), round(255 * (GREY + CONTRAST * 0.5)), dtype=torch.uint8))
    assert torch.equal(made.finished[1], torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


def test_some_images_move_and_others_stay():
    made = canvas()
    made.place(torch.zeros(4, 3, 2, 2))
    made.step(made.images(torch.tensor([1, 3])).sum(), 0.0)
    assert (made.pixels[[1, 3]] < 0).all()
    assert (made.pixels[[0, 2]] == 0).all()


def test_a_state_goes_on_as_if_nothing_had_happened():
    first, second = canvas(), canvas()
    first.start(3, 4, draw())
    first.finish()
    first.step(first.pixels.square().sum(), 0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for made in (first, second):
        made.step((made.pixels - 1).square().sum(), 0.2)
        made.finish()
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(torch.cat(first.finished), torch.cat(second.finished))
    assert first.pixels.data_ptr() != second.pixels.data_ptr()
