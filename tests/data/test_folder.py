import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from datafree.data.folder import folder_images
from datafree.errors import UserError

RED = (200, 40, 30)


@pytest.fixture
def folder(tmp_path):
    """A split with the classes `ant` and `bee`, one plain image each; tests add to `ant`."""
    for name, colour in (("ant", (10, 20, 30)), ("bee", (240, 220, 0))):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), colour).save(tmp_path / "train" / name / "0.png")
    return tmp_path


def read_added(folder, size=16):
    """The second image of `ant`: int [3, size, size]."""
    return folder_images(folder, "train", size).images[1].int()


def test_images_are_squares_in_the_order_of_class_and_file(folder):
    Image.new("RGB", (30, 10), RED).save(folder / "train" / "ant" / "1.png")
    data = folder_images(folder, "train", 16)
    assert data.classes == ("ant", "bee")
    assert data.labels.tolist() == [0, 0, 1]
    assert data.images[:, :, 8, 8].tolist() == [[10, 20, 30], list(RED), [240, 220, 0]]
    assert data.images.shape == (3, 3, 16, 16)
    assert torch.equal(data.images, folder_images(str(folder), "train", 16).images)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_any_format_is_read_with_any_file_name(folder, kind):
    Image.new("RGB", (40, 24), RED).save(folder / "train" / "ant" / "photo", format=kind)
    assert (read_added(folder) - torch.tensor(RED)[:, None, None]).abs().max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_any_colour_mode_becomes_rgb(folder, mode):
    picture = Image.new("RGB", (20, 20), "white").convert(mode)
    picture.save(folder / "train" / "ant" / "1.tif")
    assert read_added(folder).min() >= 254


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(folder, mode):
    if mode == "P":
        Image.new("P", (20, 20), 0).save(folder / "train" / "ant" / "1.png", transparency=b"\x00\xff")
    else:
        Image.new(mode, (20, 20), 0).save(folder / "train" / "ant" / "1.png")
    assert read_added(folder).min() == 255


def test_sixteen_bit_grey_keeps_its_upper_bits(folder):
    Image.fromarray(np.full((20, 20), 0x8123, np.uint16)).save(folder / "train" / "ant" / "1.png")
    assert (read_added(folder) == 0x81).all()


def test_the_exif_orientation_is_applied(folder):
    picture = Image.new("RGB", (16, 16), "black")
    picture.paste("white", (0, 0, 8, 16))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated clockwise by 90 degrees: left becomes top
    picture.save(folder / "train" / "ant" / "1.png", exif=exif)
    turned = read_added(folder)
    assert turned[:, :6].min() > 240
    assert turned[:, 10:].max() < 15


def test_a_large_jpeg_equals_its_lossless_copy(folder):
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    picture = Image.fromarray(np.stack([np.tile(ramp, (600, 1))] * 3, 2))
    for name in ("1.jpg", "2.png"):
        picture.save(folder / "train" / "ant" / name)
    images = folder_images(folder, "train", 32).images.int()
    assert (images[1] - images[2]).abs().max() <= 6


@pytest.mark.parametrize("damage", ["text", "truncated", "empty", "float"])
def test_a_file_that_cannot_be_read_is_named(folder, damage):
    path = folder / "train" / "ant" / "1.tif"
    if damage == "text":
        path.write_text("not\nan image")
    elif damage == "truncated":
        whole = (folder / "train" / "bee" / "0.png").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.touch()
    else:
        Image.new("F", (20, 20), 0.5).save(path)
    with pytest.raises(UserError, match=r"train/ant/1\.tif: cannot be read as an image \(.*\); replace or remove") as error:
        folder_images(folder, "train", 16)
    assert "\n" not in str(error.value)


def header_of(width: int, height: int) -> bytes:
    """A small PNG that says it has other dimensions, and holds the data of few pixels."""
    content = io.BytesIO()
    Image.new("1", (8, 8)).save(content, "PNG")
    whole = bytearray(content.getvalue())
    whole[16:24] = struct.pack(">II", width, height)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    return bytes(whole)


@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (13000, 13000), (1, 64_000_001), (60000, 60000)])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(folder, monkeypatch, width, height):
    monkeypatch.setattr(PngImageFile, "load", lambda *_: pytest.fail("decoded"))
    (folder / "train" / "ant" / "1.png").write_bytes(header_of(width, height))
    (folder / "train" / "ant" / "0.png").unlink()
    with pytest.raises(UserError, match=r"train/ant/1\.png: cannot be read as an image \(.*pixels.*\); replace or remove") as error:
        folder_images(folder, "train", 16)
    assert "\n" not in str(error.value)


def test_the_largest_image_is_read(folder, monkeypatch):
    monkeypatch.setattr("datafree.data.decoding.MAX_PIXELS", 600)
    for name, size in (("1", (30, 20)), ("2", (30, 21))):
        Image.new("RGB", size, RED).save(folder / "train" / "ant" / f"{name}.png")
    with pytest.raises(UserError, match=r"ant/2\.png: .*30 x 21 pixels; allowed: at most 600"):
        folder_images(folder, "train", 16)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "TGA", "PCX", "JPEG2000"])
def test_a_format_that_is_not_listed_is_refused(folder, kind):
    path = folder / "train" / "ant" / "1"
    if kind == "JPEG2000":
        path.write_bytes(b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a" + bytes(40))
    else:
        Image.new("RGB", (20, 20), RED).save(path, format=kind)
    with pytest.raises(UserError, match=r"train/ant/1: cannot be read as an image \(.*BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP.*\)"):
        folder_images(folder, "train", 16)
