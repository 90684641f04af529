"""Import order of the rooms (folders of the package), no import circles, no retired words; checked in the source code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src" / "datafree"
# A module imports only from its own room and from those before it.
TOP_LEVEL_MODULES = ("errors", "extras", "registry", "artifacts", "gpus", "devices", "progress", "checkpoints", "episode_loss")
ROOMS = ("config", "data", "zoo", "inversion", "tasks", "distillation", "meta", "nas", "evaluation", "predict", "report")
ORDER = (*TOP_LEVEL_MODULES, *ROOMS, "workflow", "stages", "cli")
ORCHESTRATION = {"snakemake", "dvc", "mlflow"}
# Rooms that work on tensors and typed configuration only; the stages read and write their files.
WITHOUT_FILES = ("inversion", "tasks", "distillation", "meta", "nas", "evaluation")

MODULES = {"datafree." + ".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in sorted(SOURCE.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too, but not for the type checker alone."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        waiting.extend(ast.iter_child_nodes(node))


IMPORTS = {name: sorted(set(imported(path))) for name, path in MODULES.items()}


def room_of(module: str) -> str:
    """The room of a module; for a module directly in the package, its own name."""
    return {"zoo_cli": "cli", "predict_cli": "cli", "pools_cli": "cli", "__main__": "cli"}.get(room := [*module.split("."), ""][1], room)


def test_every_module_belongs_to_a_room_of_the_order():
    assert {room_of(name) for name in MODULES} == {"", *ORDER}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_rooms_before_its_own(name):
    own = room_of(name)
    for other in IMPORTS[name]:
        if other.startswith("datafree.") and own:
            assert ORDER.index(room_of(other)) <= ORDER.index(own), f"{name} imports {other}"


def test_no_module_imports_itself_through_others():
    within = {name: [other for other in others if other in MODULES] for name, others in IMPORTS.items()}
    while True:  # drop what imports nothing that is left: only circles remain
        ends = [name for name, others in within.items() if not others]
        if not ends:
            break
        within = {name: [other for other in others if other not in ends] for name, others in within.items() if name not in ends}
    assert not within, f"circles among {sorted(within)}"


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) in (*TOP_LEVEL_MODULES, *ROOMS)])
def test_a_room_does_not_import_the_workflow_engine(name):
    assert not ORCHESTRATION & {other.partition(".")[0] for other in IMPORTS[name]}


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) in WITHOUT_FILES])
def test_a_room_that_works_on_tensors_reads_and_writes_no_file(name):
    assert not {"datafree.artifacts", "pathlib", "os", "io"} & set(IMPORTS[name])
    calls = [node.func.id for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))) if _is_plain_call(node)]
    assert "open" not in calls


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_the_package_itself_imports_nothing():
    """Before it is used: a job that imports the package then depends on no module of it."""
    top = [
        node for node in ast.parse(MODULES["datafree"].read_text(encoding="utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert {ast.unparse(node) for node in top} <= {"from __future__ import annotations", "from typing import TYPE_CHECKING"}


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_every_module_begins_with_a_one_line_summary(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, f"{path}: no docstring"
    assert 10 < len(text.splitlines()[0]) <= 140


# Retired words of the glossary, as regular expressions, and the standard term for each.
RETIRED = {
    r"companions?": "auxiliary teachers",
    r"classrooms?": "teacher ensemble",
    r"lessons?": "episode",
    r"canvas(es)?": "pixel parameters",
    r"entrants?": "table row, method",
    r"odds": "sampling weights",
    r"(?<!you )(dis)?trust(ed|s)?": "teacher reliability",
    r"doubt(s|ful|ed)?": "reliability warning",
    r"excuses?d?": "tolerance",
    r"ask(s|ed|ing)?": "query",
    r"answers?": "teacher predictions",
    r"screen(ed|ing|s)?(?! reader)": "pre-filter",
    r"embarrass(es)?": "baseline",
    r"seen anew": "augmented view",
    r"to be had": "baseline",
    r"course of the search": "search history",
    r"five\.py": "meta_generator.py",
}
OLD_KEYS = SOURCE / "config" / "renamed.py"  # the keys that it refuses
TEXTS = [
    *(path for path in SOURCE.rglob("*.py") if path != OLD_KEYS),
    *SOURCE.rglob("*.html"), *PROJECT.glob("rules/*.smk"), *PROJECT.glob("presets/*.yaml"), *PROJECT.glob("zoos/*.yaml"),
    *PROJECT.glob("docs/*.md"), *PROJECT.glob("benchmarks/*"), *PROJECT.glob("profiles/*/*"),
    *(PROJECT / name for name in ("README.md", "Makefile", "params.yaml", "Snakefile", "dvc.yaml")),
]  # fmt: skip
# Names that seed random numbers, or that documented results go by, stay as they are.
FIXED_NAMES = re.compile(
    r"\b(derive_seed|generator)\([^()]*(\([^()]*\)[^()]*)*\)|FigureCanvasAgg|(spos|pixels|ranking)_screened|_no_companions"
)


def retired_words(text: str) -> Iterator[tuple[str, str]]:
    """(retired word, standard term) of a line; parts of snake_case and CamelCase names count as words."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", FIXED_NAMES.sub("", text))
    for pattern, standard in RETIRED.items():
        yield from ((found[0], standard) for found in re.finditer(rf"\b{pattern}\b", words, re.IGNORECASE))


@pytest.mark.parametrize("path", [path for path in TEXTS if path.is_file()], ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_retired_word_of_the_glossary_is_used(path):
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    assert not [(number, *words) for number, line in lines for words in retired_words(line)]


@pytest.mark.parametrize("text", ["teachers are asked", "class MyCanvas:", "canvas_size = 3", "trust: 1", "the course of the search"])
def test_a_retired_word_is_found_in_text_and_names(text):
    assert list(retired_words(text))


@pytest.mark.parametrize("text", ["a task", "masked", "If you trust it", "FigureCanvasAgg", "mustard", 'generator(seed, "trust")'])
def test_other_words_are_not_taken_for_retired_ones(text):
    assert not list(retired_words(text))
