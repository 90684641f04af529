"""The parallel test run of the Makefile: a test that crashes its process is reported as one failed test."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The process dies at once, while the other one is busy: pytest-xdist fails as a whole if it takes tests from a process that is dying.
CRASH = """
import os
import time

import pytest

def test_that_crashes_its_process():
    os.abort()

@pytest.mark.parametrize("number", range(12))
def test_sound(number):
    time.sleep(0.2)
"""


def test_a_test_that_crashes_its_process_is_one_failed_test_with_its_name(tmp_path):
    (tmp_path / "test_crash.py").write_text(CRASH)
    (flags,) = re.findall(r"^test: setup.*\n\t.* -m pytest (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # importing plugins of other packages takes seconds
    plugins = ["-p", "xdist", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plugins, *flags.split(), "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"FAILED test_crash.py::test_that_crashes_its_process - worker '\w+' crashed", done.stdout)
    assert "1 failed, 12 passed" in done.stdout
