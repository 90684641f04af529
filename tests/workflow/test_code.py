"""The code of a job: files, hashes, and what a process loaded."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree.workflow import code
from datafree.workflow.code import Source

PACKAGE = {
    "__init__.py": "x = 1\n",
    "errors.py": "x = 1\n",
    "cli.py": "x = 1\n",
    "config/__init__.py": "x = 1\n",
    "stages/__init__.py": "",
    "stages/first.py": (
        "from datafree.room import near\nfrom datafree.errors import UserError\nfrom datafree import config\n"
        "def run(job):\n    import datafree.room.late\n"
    ),
    "stages/second.py": "import json\nx = 1\n",
    "room/__init__.py": "from datafree.room import sibling\n",
    "room/near.py": "from datafree.room.far import thing\n",
    "room/far.py": "import math\nthing = 1\n",
    "room/late.py": "thing = 1\n",
    "room/sibling.py": "thing = 1\n",
    "room/unused.py": "thing = 1\n",
    "room/style.css": "p {}\n",
    "room/notes.txt": "notes\n",
}


@pytest.fixture
def package(tmp_path):
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path, lambda *modules: Source.read(package=tmp_path).hash_of(modules)


IMPORTED = {"stages/first.py", "stages/__init__.py", "room/__init__.py", "room/near.py", "room/far.py", "room/late.py", "room/sibling.py"}


@pytest.mark.parametrize("name", PACKAGE)
def test_an_edit_changes_the_hash_only_if_the_stage_imports_the_module(package, name):
    folder, code_hash = package
    before = code_hash("datafree.stages.first")
    (folder / name).write_text(PACKAGE[name] + "y = 2\n")
    assert (code_hash("datafree.stages.first") != before) == (name in IMPORTED | {"room/style.css"})


def test_a_removed_or_renamed_module_changes_the_hash(package):
    folder, code_hash = package
    before = code_hash("datafree.stages.first")
    (folder / "room" / "sibling.py").unlink()
    assert code_hash("datafree.stages.first") != before


def test_comments_and_docstrings_do_not_change_the_hash(package):
    folder, code_hash = package
    before = code_hash("datafree.stages.first")
    (folder / "room" / "far.py").write_text('"""A docstring."""\n\n# a comment\nimport math  # why\n\n\nthing = 1\n')
    assert code_hash("datafree.stages.first") == before
    (folder / "room" / "far.py").write_text('"""A docstring."""\n\nimport math\nthing = 1.0\n')
    assert code_hash("datafree.stages.first") != before


def test_modules_for_type_checkers_do_not_count(package):
    folder, code_hash = package
    (folder / "stages/first.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import datafree.room.unused\n")
    before = code_hash("datafree.stages.first")
    (folder / "room/unused.py").write_text("thing = 2\n")
    assert code_hash("datafree.stages.first") == before


def test_the_code_of_several_modules_is_their_union(package):
    folder, code_hash = package
    both = Source.read(package=folder).files_of(["datafree.stages.first", "datafree.stages.second"])
    assert set(both) == IMPORTED | {"stages/second.py", "room/style.css"}
    assert code_hash("datafree.stages.first", "datafree.stages.second") == code_hash("datafree.stages.second", "datafree.stages.first")
    assert Source.read(package=folder).files_of(["datafree.absent", "json"]) == []


def test_a_source_survives_json_and_known_files_are_not_parsed_again(package, monkeypatch):
    folder, _ = package
    source = Source.read(package=folder)
    tree = json.loads(json.dumps(source.as_tree()))
    assert Source.from_tree(tree).as_tree() == source.as_tree()
    monkeypatch.setattr(code, "without_comments", None)
    assert Source.read(Source.from_tree(tree), folder).as_tree() == source.as_tree()


def test_a_file_that_is_not_python_counts_with_all_its_bytes(package):
    folder, code_hash = package
    before = code_hash("datafree.stages.second")
    (folder / "stages/second.py").write_text("def (:\n")
    broken = code_hash("datafree.stages.second")
    (folder / "stages/second.py").write_text("def (: # a comment\n")
    assert len({before, broken, code_hash("datafree.stages.second")}) == 3


LOADING = """
import sys
from pathlib import Path
from datafree.workflow.code import Source, note_loaded_modules
note_loaded_modules()
edited = Path(sys.argv[1])
planned = Source.read()
import datafree.evaluation.classifiers
before, modules = edited.read_text(), ["datafree.evaluation.classifiers"]
assert planned.first_change(modules) == ""
edited.write_text(before.replace("argmax", "argmin"))  # the process has the module already: the edit does not concern it
assert planned.first_change(modules) == ""
edited.write_text(before)
del sys.modules["datafree.evaluation.classifiers"], datafree.evaluation.classifiers
edited.write_text("# a comment\\n" + before)
import datafree.evaluation.classifiers
assert planned.first_change(modules) == ""
del sys.modules["datafree.evaluation.classifiers"]
edited.write_text(before.replace("argmax", "argmin"))
import datafree.evaluation.classifiers
edited.write_text(before)  # restored: what counts is what was loaded
assert planned.first_change(modules) == "evaluation/classifiers.py"
assert planned.first_change(["datafree.stages.images"]) == ""
"""


def test_what_counts_is_the_code_that_a_process_loaded(tmp_path):
    shutil.copytree(code.PACKAGE, tmp_path / "datafree", ignore=shutil.ignore_patterns("__pycache__"))
    edited = tmp_path / "datafree/evaluation/classifiers.py"
    assert "argmax" in edited.read_text()
    subprocess.run([sys.executable, "-c", LOADING, edited], check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})


def test_cached_bytecode_is_not_trusted(tmp_path):
    shutil.copytree(code.PACKAGE, tmp_path / "datafree", ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "datafree/evaluation/intervals.py"
    module.write_text("VALUE = 1\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run([sys.executable, "-c", "import datafree.evaluation.intervals"], check=True, env=environment)
    status = module.stat()
    module.write_text("VALUE = 2\n")  # of the same size and time: Python would run the cached bytecode
    os.utime(module, ns=(status.st_atime_ns, status.st_mtime_ns))
    script = "{}from datafree.evaluation.intervals import VALUE; print(VALUE)"
    noting = "from datafree.workflow.code import note_loaded_modules; note_loaded_modules(); "
    printed = [
        subprocess.run([sys.executable, "-c", script.format(first)], check=True, env=environment, capture_output=True, text=True).stdout
        for first in ("", noting)
    ]
    assert printed == ["1\n", "2\n"]


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\"'\\{}"), max_size=8)
STATEMENTS = st.one_of(
    TEXT.map(lambda text: f"x = '# {text}'"),
    TEXT.map(lambda text: f'y = """{text}\n\n  # no comment {text}   \n"""'),
    TEXT.map(lambda text: f"z = f'{{x}} # {text}'"),
    TEXT.map(lambda text: f"w = '{text} \\\n   b'"),
)


@st.composite
def noisy_and_plain_source(draw, indent=""):
    """Python source with docstrings, comments and blank lines, and the same source without them."""
    noisy, plain = [], []
    if draw(st.booleans()):
        text = draw(TEXT)
        noisy.append(draw(st.sampled_from([f'{indent}"""{text}"""', f'{indent}"""{text}\n\n  {text}"""', f"{indent}'{text}'  # {text}"])))
    for _ in range(draw(st.integers(1, 3))):
        statement = f"{indent}{draw(STATEMENTS)}"
        plain.append(statement)
        comment = draw(TEXT)
        noisy += draw(st.sampled_from([[statement], ["", statement, "  "], [f"   # {comment}", f"{statement}  # {comment}"]]))
        if len(indent) < 8 and draw(st.booleans()):
            head = indent + draw(st.sampled_from(["def f(a, b=1):", "class C:", "async def g():", "if x:"]))
            inner_noisy, inner_plain = draw(noisy_and_plain_source(indent + "    "))
            if head.endswith("if x:"):  # a string there is no docstring
                inner_noisy = inner_plain
            noisy += [f"{head}  # {comment}", inner_noisy]
            plain += [head, inner_plain]
    return "\n".join(noisy), "\n".join(plain)


def syntax_tree(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


@given(noisy_and_plain_source())
def test_comments_docstrings_and_blank_lines_are_all_that_is_removed(sources):
    noisy, plain = sources
    stripped = code.without_comments(noisy)
    assert syntax_tree(stripped) == syntax_tree(plain) == syntax_tree(noisy)
    assert stripped == code.without_comments(plain)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f(): 'θθθθθθθθθθ'; return 1", "def f(): 'θθθθθθθθθθ'; return 2"),
        ("x = '''a\n\nb'''", "x = '''a\nb'''"),
        ("x = '''a \nb'''", "x = '''a\nb'''"),
        ("x = '''a\n# b'''", "x = '''a\n# c'''"),
        ("if x:\n    y()\n    z()", "if x:\n    y()\nz()"),
        ("x = 'a\u2028# b'", "x = 'a\u2028# c'"),
        ("x = f'''{y}\n\n'''", "x = f'''{y}\n'''"),
        ("é = 1; x = 1  # one", "é = 1; x = 2  # one"),
    ],
)
def test_an_edit_of_code_is_noticed_anywhere(before, after):
    assert code.without_comments(before) != code.without_comments(after)
