"""Every benchmark script reports a user's mistake in one line and exits with status 2."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
# Imported by scripts.
MODULES = {
    "fault_kinds", "fault_places", "fault_project", "frechet", "inversion_table", "jury", "nas_ranking_table", "recovered_fraction",
}  # fmt: skip
OWN = {*MODULES, "unpack_mosaics"}  # a script without datafree


def test_a_mistake_is_one_line_and_status_2(tmp_path):
    table = tmp_path / "no\ntable.npz"
    given = ["--table", table, "--checkpoints", tmp_path, "--output", tmp_path / "out"]
    done = subprocess.run([sys.executable, FOLDER / "nas_ranking.py", *given], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"nas_ranking: .*table.npz: expected arrays ops, .*; name another --table\n", done.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_script_uses_exit_on_user_error(path):
    assert (f'with exit_on_user_error("{path.stem}"):\n        main()' in path.read_text(encoding="utf-8")) is (path.stem not in OWN)
