"""The Python example of docs/use-the-learner.md, run as it is printed."""

import re
from pathlib import Path

from PIL import Image

from datafree.predict.files import write_learner

PAGE = Path(__file__).parents[2] / "docs" / "use-the-learner.md"


def test_the_python_example_runs(learner, tmp_path, monkeypatch, make_images):
    monkeypatch.chdir(tmp_path)
    write_learner(tmp_path / "learner.safetensors", learner)
    images, _ = make_images(3, 2, 40, seed=1)
    for name, image in zip(
        ("photos/robin/a.png", "photos/wren/b.png", "photos/owl/d.png", "new.png", "photos/wren/c.png"),
        images[[0, 1, 2, 4, 4]],
        strict=True,
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(example, str(PAGE), "exec"), names)
    assert names["birds"].classes_.tolist() == ["owl", "robin", "wren"]
    assert names["again"].predict(["new.png"]).tolist() == ["wren"]
    assert (tmp_path / "birds.safetensors").is_file()
