import json
import sys

import convolutions
from convolutions import Shape, errors, shapes, sweep


def test_the_shapes_include_the_known_defect_and_its_neighbours():
    every = set(shapes())
    assert len(every) == len(list(shapes())) > 50_000
    for inputs in range(2, 8):
        assert Shape(16, inputs, 8, 16, 1, 2, 1, images=True, weights=True) in every
    assert {shape.groups == 1 for shape in every} == {True, False}
    assert all(shape.inputs % shape.groups == 0 and shape.outputs % shape.groups == 0 for shape in every)


def test_a_wrong_value_is_detected(monkeypatch):
    shape = Shape(5, 9, 4, 5, 3, 1, 1, images=True, weights=True)
    assert errors(shape) == {}
    monkeypatch.setattr(convolutions, "TOLERANCE", 0.0)
    assert errors(shape).keys() <= {"output", "gradient of the images", "gradient of the weights"}
    assert errors(shape)


def test_a_shape_that_crashes_its_process_is_reported_and_the_others_are_run(tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text(
        "import os, sys\n"
        "for index in map(int, sys.argv[2:]):\n"
        "    print('shape', index, flush=True)\n"
        "    if index == 4: os.abort()\n"
        "    if index == 5: print('wrong 5 by far', flush=True)\n"
        "print('end')\n"
    )
    monkeypatch.setattr(convolutions, "__file__", str(child))
    assert sweep([2, 4, 5, 6]) == {"died": [[4, -6]], "wrong": ["5 by far"]}


def test_the_script_writes_its_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["convolutions", str(tmp_path / "found.json"), "--every", "20000", "--first", "30000"])
    convolutions.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["shapes"] == 2 and found["wrong"] == []
    assert capsys.readouterr().out == f"2 shapes: {len(found['died'])} crashed, 0 gave wrong values\n"
