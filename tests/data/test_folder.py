import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from datafree.data.decoding import read_image, read_images
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


@pytest.mark.parametrize("kind", ["binary", "plain"])
@pytest.mark.parametrize("most", [256, 1023, 65535])
def test_pgm_files_of_more_than_8_bits_are_scaled_by_their_maximal_value(folder, kind, most):
    ramp = np.tile(np.linspace(0, most, 16).round().astype(int), (16, 1))
    values = ramp.astype(">u2").tobytes() if kind == "binary" else " ".join(map(str, ramp.flatten())).encode()
    header = f"{'P5' if kind == 'binary' else 'P2'}\n# a comment\n16 16\n{most}\n"
    (folder / "train" / "ant" / "1.pgm").write_bytes(header.encode() + values)
    wanted = torch.from_numpy(ramp * 65535 // most >> 8).expand(3, -1, -1)
    assert (read_added(folder) - wanted).abs().max() <= 1
    assert read_added(folder)[:, 0, [0, -1]].tolist() == [[0, 255]] * 3


def test_a_pgm_file_that_is_cut_off_and_32_bit_grey_are_refused(folder):
    path = folder / "train" / "ant" / "1"
    for most in (1023, 65535):
        path.write_bytes(f"P5\n16 16\n{most}\n".encode() + bytes(100))
        with pytest.raises(UserError, match="train/ant/1: cannot be read as an image"):
            folder_images(folder, "train", 16)
    Image.fromarray(np.full((20, 20), 70_000, np.int32)).save(path, "TIFF")
    with pytest.raises(UserError, match=r"\(32-bit grey values of unknown range; convert it to 8 or 16 bits\)"):
        folder_images(folder, "train", 16)


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


@pytest.mark.parametrize("threads", [1, 2, 9])
@pytest.mark.parametrize(("damaged", "named"), [((1, 4), (1, 4)), (range(1, 6), range(1, 6)), (range(8), range(5))])
def test_all_files_that_cannot_be_read_are_reported_at_once(folder, threads, damaged, named):
    paths = [folder / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        Image.new("RGB", (20, 20), RED).save(path)
        if number in damaged:
            path.write_bytes(b"P5\n20 20\n0\n" if number == damaged[0] else b"text")
    with pytest.raises(UserError) as error:
        read_images(paths, 16, "reading", threads)
    start, *others = [str(paths[number]) for number in named]
    more = " and 3 more" if len(damaged) == 8 else ""
    names = ", ".join([f"{start} (maxval must be greater than 0 and less than 65536)", *others])
    assert str(error.value) == f"{len(damaged)} of 9 files cannot be read as images: {names}{more}; replace or remove them"


@pytest.mark.parametrize("threads", [1, 2])
def test_one_file_that_cannot_be_read_keeps_its_own_message(folder, threads):
    path = folder / "text"
    path.write_text("text")
    with pytest.raises(UserError) as error:
        read_images([path, folder / "train" / "ant" / "0.png"], 16, "reading", threads)
    assert str(error.value).startswith(f"{path}: cannot be read as an image (its content is none of")


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
    path = folder / "train" / "ant" / "1.png"
    path.write_bytes(header_of(width, height))
    with pytest.raises(UserError, match=r"train/ant/1\.png: cannot be read as an image \(.*pixels.*\); replace or remove") as error:
        read_image(path, 16)
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
