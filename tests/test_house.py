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
TOP_LEVEL_MODULES = ("errors", "artifacts", "devices", "progress", "checkpoints", "episode_loss")
ROOMS = ("config", "data", "zoo", "inversion", "tasks", "distillation", "meta", "nas", "evaluation", "report")
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
    return {"zoo_cli": "cli"}.get(room := [*module.split("."), ""][1], room)


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


@pytest.mark.parametrize("name", [name for name in MODULES if room_of(name) in ROOMS])
def test_a_room_does_not_import_the_workflow_engine(name):
    assert not ORCHESTRATION & {other.partition(".")[0] for other in IMPORTS[name]}
    if room_of(name) in WITHOUT_FILES:
        assert not {"datafree.artifacts", "pathlib"} & set(IMPORTS[name]), "files are read and written by the stages"


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
OLD_KEYS = SOURCE / "config" / "renamed.py"  # names what it refuses
TEXTS = [
    *(path for path in SOURCE.rglob("*.py") if path != OLD_KEYS),
    *SOURCE.rglob("*.html"), *PROJECT.glob("rules/*.smk"), *PROJECT.glob("presets/*.yaml"), *PROJECT.glob("docs/*.md"),
    *(PROJECT / name for name in ("README.md", "params.yaml", "Snakefile", "dvc.yaml")),
]  # fmt: skip
# The names of random generators are part of every result: they stay what they are.
SEED_NAMES = re.compile(r'\b(derive_seed|generator)\([^()]*(\([^()]*\)[^()]*)*\)|"MLFLOW_\w+"')


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_retired_word_of_the_glossary_is_used(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        plain = SEED_NAMES.sub("", line)
        for pattern, standard in RETIRED.items():
            found = re.search(rf"\b{pattern}\b", plain, re.IGNORECASE)
            assert not found, f"{path}:{number}: {found[0]!r}; the standard term is {standard!r}"  # pyright: ignore[reportOptionalSubscript]
