import pytest
import torch

from datafree.errors import UserError
from datafree.inversion.generator import Generator, new_generator


def make(seed=0, *, latent=6, width=8, classes=5, channels=3, size=16):
    return new_generator(latent, width, classes, channels, size, seed)


@pytest.mark.parametrize(("channels", "size", "width"), [(3, 32, 8), (1, 16, 4), (3, 24, 16)])
def test_images_have_the_requested_shape_and_values_in_0_to_1(channels, size, width):
    generator = make(channels=channels, size=size, width=width)
    images = generator(torch.randn(10, 6), torch.arange(10) % 5)
    assert images.shape == (10, channels, size, size)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < 0.3
    assert 0.7 < images.max() <= 1


def test_a_seed_determines_every_weight():
    first, second, other = make(1), make(1), make(2)
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_images_depend_on_label_and_latent():
    generator, latent = make(), torch.randn(6, 6)
    images = generator(latent, torch.tensor([0, 1, 2, 3, 4, 0]))
    assert not torch.allclose(images, generator(latent, torch.tensor([1, 1, 2, 3, 4, 0])))
    assert not torch.allclose(images, generator(latent.roll(1, 0), torch.tensor([0, 1, 2, 3, 4, 0])))


def test_an_unconditional_generator_ignores_the_label():
    generator, latent = new_generator(6, 8, 5, 3, 16, seed=0, conditional=False), torch.randn(6, 6)
    images = generator(latent, torch.arange(6) % 5)
    assert torch.equal(images, generator(latent, torch.zeros(6, dtype=torch.int64)))
    assert not torch.allclose(images, generator(latent.roll(1, 0), torch.arange(6) % 5))
    assert not any("embedding" in name for name in generator.state_dict())


def test_evaluation_mode_changes_nothing_and_no_state_is_updated():
    generator, latent, labels = make(), torch.randn(6, 6), torch.arange(6) % 5
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    images = generator(latent, labels)
    assert torch.equal(generator.eval()(latent, labels), images)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_a_gradient_reaches_every_parameter():
    generator = make()
    images = generator(torch.randn(10, 6), torch.arange(10) % 5)
    (images * torch.randn(images.shape)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in generator.named_parameters() if not name.endswith("paint.bias"))


def test_images_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert make()(torch.randn(4, 6), torch.arange(4)).dtype == torch.float32


def test_a_size_that_is_no_multiple_of_8_is_refused():
    with pytest.raises(UserError, match="^data.image_size: got 20; .*multiple of 8"):
        Generator(6, 8, 5, 3, 20)
