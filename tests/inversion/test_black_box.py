import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import BlackBoxInversion, InversionConfig, InversionLossConfig
from datafree.errors import UserError
from datafree.inversion import Recovery, black_box, recover_one
from datafree.inversion.black_box import augmented_view, recover_from_predictions, zero_order_gradient
from datafree.inversion.regions import Region

CPU = torch.device("cpu")
SHARED = InversionConfig(images_per_class=4)


def method(**changes) -> BlackBoxInversion:
    return BlackBoxInversion(**{"steps": 4, "batch_size": 6, "directions": 3, "latent": 16, "width": 16, **changes})


def pool(teacher, settings=None, seed=0, checkpoint=None):
    checkpoint = checkpoint or Checkpoint(None)
    return recover_one(Recovery(teacher, seed, checkpoint), settings or method(), SHARED, size=32)


def colour_api(images: torch.Tensor) -> torch.Tensor:
    """Probabilities by the strongest colour channel, computed with NumPy so that no autograd graph exists."""
    assert not images.requires_grad
    assert images.min() >= 0
    assert images.max() <= 255
    strength = images.numpy().mean((2, 3)) / 255
    scores = np.exp(30 * strength)
    return torch.from_numpy(scores / scores.sum(1, keepdims=True))


def from_predictions(probabilities, settings, seed=0, checkpoint=None, size=16):
    checkpoint = checkpoint or Checkpoint(None)
    return recover_from_predictions(probabilities, 3, settings, SHARED, size=size, seed=seed, checkpoint=checkpoint, device=CPU)


# ---- the estimated gradient -------------------------------------------------------------------------------------------------------------


def smooth(images):
    """A function of each image with curvature and products of pixels."""
    flat = images.flatten(1)
    weights = torch.linspace(-1, 1, flat.shape[1], dtype=flat.dtype)
    return torch.sin(flat @ weights) + 0.1 * flat.square().sum(1) + (flat[:, :-1] * flat[:, 1:]).sum(1)


def true_gradient(images):
    images = images.clone().requires_grad_()
    return torch.autograd.grad(smooth(images).sum(), images)[0]


def estimate(images, **changes):
    settings = {"directions": 4000, "smoothing": 1e-3, "block": 1, "rng": devices.generator(0, "directions"), **changes}
    return zero_order_gradient(smooth, images, **settings)


def pictures(size=4):
    return torch.rand(3, 2, size, size, generator=devices.generator(0, "pictures"), dtype=torch.float64)


def test_the_estimate_has_the_gradient_as_its_expectation():
    images = pictures()
    values, estimated = estimate(images)
    truth = true_gradient(images)
    assert torch.equal(values, smooth(images))
    assert F.cosine_similarity(estimated.flatten(1), truth.flatten(1)).min() > 0.98
    assert torch.allclose(estimated.flatten(1).norm(dim=1), truth.flatten(1).norm(dim=1), rtol=0.1)


def test_the_error_falls_with_the_number_of_directions():
    images = pictures()
    truth = true_gradient(images)
    errors = [(estimate(images, directions=count)[1] - truth).norm().item() for count in (50, 5000)]
    assert 5 < errors[0] / errors[1] < 20  # the square root of 100


@pytest.mark.parametrize("size", [4, 5])
def test_with_blocks_the_expectation_is_the_gradient_averaged_over_each_block(size):
    images = pictures(size)
    estimated = estimate(images, block=2)[1]
    truth = true_gradient(images)
    for down in range(0, size, 2):
        for right in range(0, size, 2):
            part = estimated[..., down : down + 2, right : right + 2]
            assert (part - part[..., :1, :1]).abs().max() < 1e-9  # constant within a block
    if size % 2 == 0:
        expected = F.avg_pool2d(truth, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert F.cosine_similarity(estimated.flatten(1), expected.flatten(1)).min() > 0.98
        assert torch.allclose(estimated.flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1), rtol=0.1)


def test_for_a_linear_function_one_direction_is_exact_along_itself():
    images = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    slopes = torch.arange(12, dtype=torch.float64).view(1, 3, 2, 2)
    settings = {"directions": 1, "smoothing": 0.7, "block": 1, "rng": devices.generator(0, "one")}
    _, estimated = zero_order_gradient(lambda x: (x * slopes).flatten(1).sum(1), images, **settings)
    direction = estimated / estimated.norm()
    assert torch.allclose(estimated, 12 * (slopes * direction).sum() * direction)


# ---- recovery ---------------------------------------------------------------------------------------------------------------------------


def test_images_are_recovered_from_a_function_without_a_graph():
    recovered = from_predictions(colour_api, method(steps=60, batch_size=18, directions=8))
    strength = recovered.images.float().mean((2, 3))
    assert (strength.argmax(1) == recovered.labels).all()
    assert torch.allclose(recovered.soft_labels.float(), colour_api(recovered.images.float()).float(), atol=1e-3)
    assert recovered.history[-1]["cross_entropy"] < 0.1 * recovered.history[0]["cross_entropy"]


def test_the_history_counts_all_queried_images():
    queried = []

    def counted(images):
        queried.append(len(images))
        return colour_api(images)

    recovered = from_predictions(counted, method(steps=3, batch_size=6, directions=3))
    assert [row["queries"] for row in recovered.history] == [24, 48, 72 + 12]
    assert sum(queried) == 84


def test_neither_gradient_nor_statistics_of_the_teacher_are_used(teachers, monkeypatch, state_of, assert_same_state):
    teacher = teachers[0]
    before, graphs = state_of(teacher.network), []
    handle = teacher.network.register_forward_hook(lambda *call: graphs.append(torch.is_grad_enabled() or call[2].requires_grad))

    def refuse(*_):
        raise AssertionError("no hook on the teacher is allowed")

    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", refuse)
    monkeypatch.setattr(torch.nn.Module, "register_forward_hook", refuse)
    recovered = pool(teacher)
    handle.remove()
    assert graphs and not any(graphs)
    assert_same_state(state_of(teacher.network), before)

    def predictions(images):
        with torch.no_grad():
            return teacher.network(teacher.normalise(images)).softmax(1)

    again = recover_from_predictions(predictions, 3, method(), SHARED, size=32, seed=0, checkpoint=Checkpoint(None), device=CPU)
    assert torch.equal(recovered.images, again.images)  # the probability function is sufficient


def test_predictions_are_float32_under_autocast(teachers):
    plain = pool(teachers[0], method(steps=1))
    dtypes = []
    handle = teachers[0].network.register_forward_hook(lambda *call: dtypes.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        pool(teachers[0], method(steps=1))
    handle.remove()
    assert set(dtypes) == {torch.float32}
    assert plain.images.shape == (12, 3, 32, 32)


def test_a_seed_determines_the_pool(teachers):
    first, second, other = pool(teachers[1]), pool(teachers[1]), pool(teachers[1], seed=1)
    assert torch.equal(first.images, second.images)
    assert first.history == second.history
    assert not torch.equal(first.images, other.images)
    assert torch.bincount(first.labels).tolist() == [4] * 4
    assert [row["step"] for row in first.history] == [1, 2, 3, 4]


def test_an_interrupted_recovery_resumes_to_the_same_pool_and_query_count(tmp_path):
    settings = method(steps=5)
    whole = from_predictions(colour_api, settings)
    saving = Checkpoint(tmp_path / "c.pt", "work", seconds_between=0)

    def failing(images):
        if failing.left == 0:
            raise ConnectionError
        failing.left -= 1
        return colour_api(images)

    failing.left = 10  # fails in the third step
    with pytest.raises(ConnectionError):
        from_predictions(failing, settings, checkpoint=saving)
    again = from_predictions(colour_api, settings, checkpoint=Checkpoint(tmp_path / "c.pt", "work"))
    assert torch.equal(whole.images, again.images)
    assert whole.history == again.history


def test_a_predicted_probability_of_zero_gives_a_finite_loss():
    def certain(images):
        return torch.eye(3)[torch.zeros(len(images), dtype=torch.int64)]

    recovered = from_predictions(certain, method(steps=2))
    assert recovered.history[-1]["cross_entropy"] == pytest.approx(-2 / 3 * np.log(black_box.SMALLEST_PROBABILITY), rel=1e-4)


def test_a_nan_prediction_raises_an_error():
    with pytest.raises(UserError, match="black box: cross_entropy became nan at step 1"):
        from_predictions(lambda images: torch.full((len(images), 3), float("nan")), method())


def test_the_diversity_term_acts_without_teacher_gradients():
    same = torch.full((1, 3), 1 / 3)
    distances = []
    for weight in (0.0, 20.0):
        shared = InversionConfig(images_per_class=4, loss=InversionLossConfig(diversity=weight, diversity_margin=2.0))
        recovered = recover_from_predictions(
            lambda images: same.expand(len(images), 3), 3, method(steps=40, batch_size=12, directions=1), shared,
            size=16, seed=0, checkpoint=Checkpoint(None), device=CPU,
        )  # fmt: skip
        distances.append(recovered.history[-1]["diversity"])
    assert distances[1] < distances[0]


def test_augmented_views_are_cropped_shifted_and_augmented():
    images = torch.rand(2, 3, 8, 8, generator=devices.generator(0, "images"))
    plain = {"move": (0, 0), "region": None, "augment": None}
    assert torch.equal(augmented_view(images, plain), images)
    assert torch.equal(augmented_view(images, {**plain, "move": (1, -2)}), images.roll(1, 2).roll(-2, 3))
    enlarged = F.interpolate(images[:, :, 2:6, 3:7], size=(8, 8), mode="bilinear", antialias=True)
    changed = {"move": (0, 1), "region": Region(2, 3, 4, 4), "augment": lambda moved: moved / 2}
    assert torch.allclose(augmented_view(images, changed), enlarged.roll(1, 3) / 2)
