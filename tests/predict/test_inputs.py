import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datafree.errors import UserError
from datafree.predict.inputs import as_batch

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)


def forms(folder: Path):
    """The same three images in every form."""
    pictures = [Image.fromarray(image) for image in PIXELS]
    paths = [folder / f"{number}.png" for number in range(3)]
    contents = []
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
        contents.append(path.read_bytes())
    tensor = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    return {
        "array": PIXELS,
        "float array": PIXELS / 255,
        "float32 array": (PIXELS / 255).astype(np.float32),
        "tensor": tensor,
        "float tensor": tensor / 255,
        "array of paths": np.array(list(map(str, paths))),
        "array of objects": np.array(paths, dtype=object),
        "list of arrays": list(PIXELS),
        "list of tensors": list(tensor),
        "images": pictures,
        "paths": paths,
        "strings": list(map(str, paths)),
        "contents": contents,
        "mixture": [paths[0], pictures[1], tensor[2]],
        "tuple": tuple(paths),
    }


def test_an_image_gives_the_same_values_in_every_form(tmp_path):
    batches = {name: as_batch(images, 16) for name, images in forms(tmp_path).items()}
    for name, batch in batches.items():
        assert batch.dtype == torch.uint8
        assert batch.shape == (3, 3, 16, 16)
        assert torch.equal(batch, batches["paths"]), name


@pytest.mark.parametrize(
    "grey", [PIXELS[..., 0], PIXELS[..., :1], torch.from_numpy(PIXELS[..., :1]).permute(0, 3, 1, 2)], ids=["HW", "HWC", "CHW"]
)
def test_grey_images_get_three_equal_channels(grey):
    batch = as_batch(grey, 20)
    assert torch.equal(batch[:, 0], batch[:, 2])


def test_a_tensor_of_the_right_size_is_used_as_it_is():
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert as_batch(images, 16) is not None
    assert torch.equal(as_batch(images, 16), images)


@pytest.mark.parametrize("mode", ["CMYK", "L", "LA", "P", "RGBA", "1", "I;16"])
def test_images_of_any_mode_are_read(mode):
    picture = Image.fromarray(np.full((20, 20), 60_000, dtype=np.uint16)) if mode == "I;16" else Image.new("RGB", (20, 20)).convert(mode)
    assert as_batch([picture], 16).shape == (1, 3, 16, 16)


def test_an_animated_image_is_its_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert as_batch([stream.getvalue()], 8)[0, :, 4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photo.png", "got one str; put it into a list"),
        (Path("photo.png"), "got one .*Path; put it into a list"),
        (Image.new("RGB", (4, 4)), "got one Image; put it into a list"),
        ([], "expected at least one image, got none"),
        (PIXELS[:0], "expected at least one image, got none"),
        (torch.zeros(3, 16, 16), r"got the shape \[3, 16, 16\]"),
        (np.zeros((2, 3)), r"got the shape \[2, 3\]"),
        (np.zeros((2, 3, 16, 16)), r"images\[0\]: expected 1 or 3 channels, last in an array .* \[3, 16, 16\]"),
        (torch.zeros(2, 16, 16, 3), r"images\[0\]: expected 1 or 3 channels.* \[16, 16, 3\]"),
        (np.full((1, 4, 4, 3), 127.0), r"images\[0\]: expected floats from 0 to 1, or uint8 .* got 127 to 127"),
        (np.full((1, 4, 4, 3), np.nan), r"images\[0\]: expected floats from 0 to 1"),
        (np.zeros((1, 4, 4, 3), dtype=np.int32), r"images\[0\]: expected uint8 .* got int32"),
        ([None], r"images\[0\]: expected a tensor .* got NoneType"),
        ([b"nothing"], r"images\[0\]: cannot be read as an image"),
        (["nowhere.png"], r"nowhere.png: cannot be read as an image"),
        ([np.zeros((0, 4, 3), dtype=np.uint8)], r"got the shape \[0, 4, 3\]"),
        ([Image.new("F", (4, 4))], r"images\[0\]: cannot be used as an image"),
    ],
)
def test_anything_else_gives_one_line(images, message):
    with pytest.raises(UserError, match=message) as error:
        as_batch(images, 16)
    assert "\n" not in str(error.value)
