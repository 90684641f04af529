import io
import sys
from pathlib import Path

import numpy as np
import pytest
import unpack_mosaics as module
from PIL import Image

from datafree.data.folder import folder_images
from datafree.data.layout import by_domain


def encoded(image: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def packed(parts: list[bytes]) -> dict[str, np.ndarray]:
    return {"bytes": np.frombuffer(b"".join(parts), np.uint8), "offset": np.cumsum([0, *map(len, parts)])}


@pytest.fixture
def files(tmp_path):
    """One file of each format; the images of class c are numbered by their first pixel."""
    tiles = np.random.default_rng(0).integers(0, 255, (3, 4, 32, 32, 3), dtype=np.uint8)
    mosaics = [np.concatenate([np.concatenate(list(pair), 1) for pair in (of_class[:2], of_class[2:])], 0) for of_class in tiles]
    webp = packed([encoded(mosaic, "WEBP") for mosaic in mosaics])
    names = np.array(["ant", "bee", "cow"])
    np.savez(tmp_path / "m.npz", webp=webp["bytes"], offset=webp["offset"], class_name=names, file_name=np.zeros((3, 3), "S4"))
    grey = [np.full((64, 64, 3), 20 * index, np.uint8) for index in range(8)]
    jpeg = packed([encoded(image, "JPEG") for image in grey])
    names = np.array(["tea cup, mug", "b", "c", "d"])
    np.savez(tmp_path / "p.npz", jpeg=jpeg["bytes"], offset=jpeg["offset"], label=np.arange(8) % 4, class_name=names)
    ink = np.zeros((3, 2, 105 * 105), np.uint8)
    ink[:, :, 0] = 1
    np.savez(
        tmp_path / "d.npz", ink=np.packbits(ink, axis=-1), alphabet=np.array([0, 0, 1]), alphabet_name=np.array(["Greek", "Thai"]),
        character=np.array([1, 2, 1]), vinyals_split=np.array([0, 2, 1]),
    )  # fmt: skip
    return tmp_path, tiles


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def test_the_tiles_of_a_mosaic_are_its_images_row_by_row(files, tmp_path):
    folder, tiles = files
    assert module.unpack(folder / "m.npz", tmp_path / "out", "train") == 9
    assert listing(tmp_path / "out") == {f"train/{name}/{k:04d}.png" for name in ("ant", "bee", "cow") for k in range(3)}
    images = folder_images(tmp_path / "out", "train", 32).images.permute(0, 2, 3, 1).numpy()
    assert (images == tiles[:, :3].reshape(9, 32, 32, 3)).all()


def test_photos_of_all_splits_are_divided_half_quarter_quarter(files, tmp_path):
    folder, _ = files
    module.unpack(folder / "p.npz", tmp_path / "out", "all", "objects")
    classes = {f"{split}/objects.{name}" for split, name in (("train", "tea_cup"), ("train", "b"), ("validation", "c"), ("test", "d"))}
    assert {str(Path(name).parent) for name in listing(tmp_path / "out")} == classes
    second = np.asarray(Image.open(tmp_path / "out/train/objects.tea_cup/0001.png"))
    assert second.shape == (64, 64, 3)
    assert abs(int(second.mean()) - 80) <= 1


def test_drawings_are_black_on_white_and_keep_their_split(files, tmp_path):
    folder, _ = files
    module.unpack(folder / "d.npz", tmp_path / "out", "all", "drawings")
    expected = {"train/drawings.Greek-01", "test/drawings.Greek-02", "validation/drawings.Thai-01"}
    assert listing(tmp_path / "out") == {f"{name}/{k:04d}.png" for name in expected for k in range(2)}
    image = np.asarray(Image.open(tmp_path / "out/train/drawings.Greek-01/0000.png"))
    assert (image[0, 0], image[0, 1], image.shape) == (0, 255, (105, 105))


def test_the_command_joins_several_domains(files, tmp_path, monkeypatch, capsys):
    folder, _ = files
    pairs = [f"photos.train={folder / 'm.npz'}", f"objects.all={folder / 'p.npz'}"]
    monkeypatch.setattr(sys, "argv", ["unpack", str(tmp_path / "out"), *pairs])
    module.main()
    assert by_domain(sorted(path.name for path in (tmp_path / "out/train").iterdir())) == {"objects": [0, 1], "photos": [2, 3, 4]}
    assert "9 images into" in capsys.readouterr().out


def test_an_unknown_split_is_refused(files, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["unpack", str(tmp_path / "out"), "photos=m.npz"])
    with pytest.raises(SystemExit, match="photos=m.npz: expected"):
        module.main()
