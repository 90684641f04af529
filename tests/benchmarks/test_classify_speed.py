import sys

import classify_speed

from datafree import artifacts


def test_every_part_is_measured(tmp_path, monkeypatch, capsys):
    output = tmp_path / "speed.json"
    arguments = ["--output", str(output), "--device", "cpu", "--images", "12", "--threads", "1", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["classify_speed", *arguments])
    monkeypatch.setattr(classify_speed, "BACKBONES", {"conv4": 8})
    classify_speed.main()
    measured = artifacts.read_json(output)
    assert measured["images"] == 12
    assert [row["what"] for row in measured["rows"]] == ["decoding", "network, conv4 of width 8", "files to labels, conv4 of width 8"]
    for row in measured["rows"]:
        assert len(row["seconds"]) == 2
        assert row["images_per_second"] == [12 / value for value in row["seconds"]]
    assert "images per second" in capsys.readouterr().out
