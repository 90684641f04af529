import io

import pytest
import torch
from PIL import Image

from datafree.data.decoding import read_image
from datafree.errors import UserError
from datafree.predict import photos
from datafree.predict.photos import Source, batches, find

NOTHING = io.BytesIO()


@pytest.fixture
def folder(tmp_path):
    """Four images in folders of two levels, with what is no image beside them."""
    for number, name in enumerate(("b.png", "a.jpg", "deep/er/c.png", ".hidden/d.png", ".e.png", "notes.txt")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / name).write_text("notes")
        else:
            Image.new("RGB", (10 + number, 12), (number * 40, 0, 0)).save(tmp_path / name)
    return tmp_path


def names(sources, folder):
    return [source.name.removeprefix(f"{folder}/") for source in sources]


def test_a_folder_stands_for_all_images_in_it_and_in_its_folders(folder):
    sources = find([str(folder)], NOTHING)
    assert names(sources, folder) == ["a.jpg", "b.png", "deep/er/c.png"]


def test_files_and_folders_keep_the_order_of_the_arguments(folder):
    arguments = [str(folder / "b.png"), str(folder / "deep"), str(folder / ".e.png")]
    assert names(find(arguments, NOTHING), folder) == ["b.png", "deep/er/c.png", ".e.png"]


def test_standard_input_is_an_image_or_paths(folder):
    content = (folder / "a.jpg").read_bytes()
    (source,) = find(["-"], io.BytesIO(content))
    assert source == Source("standard input", content)
    lines = f"{folder / 'b.png'}\n\n{folder / 'deep'}\n"
    assert names(find(["-"], io.BytesIO(lines.encode())), folder) == ["b.png", "deep/er/c.png"]


@pytest.mark.parametrize(
    ("argument", "content", "message"),
    [
        ("-", b"", "standard input: expected an image, or a path in each line; got nothing"),
        ("-", b"x" * 101, "standard input: expected at most 100 bytes; got more"),
    ],
)
def test_what_is_not_there_gives_one_line(monkeypatch, argument, content, message):
    monkeypatch.setattr(photos, "MOST_BYTES", 100)
    with pytest.raises(UserError, match=message):
        find([argument], io.BytesIO(content))


def test_a_folder_without_images_gives_one_line(tmp_path):
    with pytest.raises(UserError, match="expected images, found none"):
        find([str(tmp_path)], NOTHING)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_batches_have_all_images_in_order_and_a_line_for_each_unreadable_file(folder, monkeypatch, threads, size):
    monkeypatch.setattr(photos, "BATCH", size)
    (folder / "bad.png").write_bytes(b"no image")
    sources = find([str(folder)] * 2, NOTHING)
    read, seen, errors = [], [], []
    for part, images, lines in batches(sources, 8, threads):
        assert images.shape[1:] == (3, 8, 8)
        assert len(part) + len(lines) <= size
        read += images
        seen += part
        errors += lines
    good = [source for source in sources if not source.name.endswith("bad.png")]
    assert seen == [source.name for source in good]
    assert torch.equal(torch.stack(read), torch.stack([read_image(source.content, 8) for source in good]))
    assert len(errors) == 2
    assert all(line.startswith(f"{folder / 'bad.png'}: cannot be read as an image") for line in errors)
