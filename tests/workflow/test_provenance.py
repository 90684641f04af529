import ast
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow import provenance
from datafree.workflow.provenance import Job

# ---- jobs -------------------------------------------------------------------------------------------------------------------------------


def a_job(**changes) -> Job:
    parts = {
        "stage": "learner",
        "wildcards": {"arm": "bell", "seed": "0"},
        "config": {"seed": 0, "meta.arm": {"steps": 5, "temperature": 4.0}},
        "code": "c0de",
        "inputs": {"pools": ["in/a", "in/b"], "episodes": "in/e"},
        "outputs": {"learner": "out/learner", "card": "out/card", "provenance": "out/provenance.json"},
    }
    return Job(**{**parts, **changes})


def test_name_and_files_of_a_job():
    job = a_job()
    assert job.name == "learner/bell/0"
    assert job.input("episodes") == Path("in/e")
    assert job.input_list("pools") == [Path("in/a"), Path("in/b")]
    assert job.input_list("episodes") == [Path("in/e")]
    assert job.input_list("architecture") == []
    assert list(job.input_paths()) == ["in/a", "in/b", "in/e"]
    assert job.output("card") == Path("out/card")
    with pytest.raises(TypeError, match="`pools` names several files"):
        job.input("pools")


# ---- up to date or stale-----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A folder in which ``a_job()`` is done."""
    monkeypatch.chdir(tmp_path)
    for path in ("in/a", "in/b", "in/e", "out/learner", "out/card"):
        artifacts.write_text(path, f"content of {path}")
    provenance.write_record(a_job(), {"python": "3"})
    return tmp_path


def test_a_finished_job_is_up_to_date(finished):
    assert provenance.stale_reason(a_job()) == ""


REASONS = {
    "no record": lambda: os.unlink("out/provenance.json"),  # noqa: PTH108
    "input changed: in/b": lambda: Path("in/b").write_text("other"),
    "output missing or changed: out/card": lambda: Path("out/card").write_text("other"),
    "output missing or changed: out/learner": lambda: Path("out/learner").unlink(),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_change_on_disk_makes_a_job_stale(finished, reason):
    REASONS[reason]()
    assert provenance.stale_reason(a_job()) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {"seed": 1, "meta.arm": {"steps": 5, "temperature": 4.0}}}, "parameter changed: seed"),
        ({"config": {"seed": 0, "meta.arm": {"steps": 6, "temperature": 4.0}}}, "parameter changed: meta.arm"),
        ({"config": {"seed": 0}}, "parameter changed: meta.arm"),
        ({"config": {"seed": 0, "meta.arm": {"steps": 5, "temperature": 4.0}, "tasks": {}}}, "parameter changed: tasks"),
        ({"code": "c1de"}, "code changed"),
        ({"stage": "retrain"}, "recorded for another job"),
        ({"wildcards": {"arm": "bell", "seed": "1"}}, "recorded for another job"),
        ({"inputs": {"pools": ["in/a", "in/b"], "episodes": "in/e", "architecture": "in/c"}}, "other input files"),
        ({"inputs": {"pools": ["in/a"], "episodes": "in/e"}}, "other input files"),
        ({"outputs": {"learner": "out/learner", "provenance": "out/provenance.json"}}, "other output files"),
    ],
)
def test_another_specification_makes_a_job_stale(finished, changes, reason):
    assert provenance.stale_reason(a_job(**changes)) == reason


@pytest.mark.parametrize("inputs", [{"pools": ["in/b", "in/a"], "episodes": "in/e"}, {"pools": ["in/a", "in/e"], "episodes": "in/b"}])
def test_the_same_files_in_another_order_or_role_are_other_inputs(finished, inputs):
    assert provenance.stale_reason(a_job(inputs=inputs)) == "other input files"


def test_a_missing_input_is_a_user_error(finished):
    Path("in/a").unlink()
    with pytest.raises(UserError, match="in/a: the file is missing"):
        provenance.stale_reason(a_job())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda i: st.lists(i) | st.dictionaries(st.text(), i)
)
PARTS = ["stage", "wildcards", "config", "code", "inputs", "outputs"]


@given(json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(PARTS, st.sampled_from([None, 1, "x", [], {}]))))
def test_any_other_content_of_a_record_makes_a_job_stale(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("record")
    record = folder / "provenance.json"
    artifacts.write_json(record, value)
    job = a_job(inputs={}, outputs={"provenance": str(record)})
    assert provenance.stale_reason(job) != ""
    provenance.write_card(folder / "card.json", job)
    assert provenance.read_job(folder / "card.json", {}, {}).specification() == job.specification()


def test_a_record_has_no_time_and_no_paths_of_the_machine(finished):
    before = Path("out/provenance.json").read_bytes()
    time.sleep(0.01)
    provenance.write_record(a_job(), {"python": "3"})
    assert Path("out/provenance.json").read_bytes() == before
    record = json.loads(before)
    assert record["inputs"] == {path: artifacts.sha256(path) for path in ("in/a", "in/b", "in/e")}
    assert record["outputs"] == {path: artifacts.sha256(path) for path in ("out/learner", "out/card")}
    assert str(finished) not in before.decode()


def test_touching_outputs_changes_only_their_modification_times(finished):
    paths = ("out/learner", "out/card", "out/provenance.json")
    before = [Path(path).read_bytes() for path in paths]
    for path in paths:
        os.utime(path, (1, 1))
    provenance.touch_outputs(a_job())
    assert min(Path(path).stat().st_mtime for path in paths) > 1e9
    assert [Path(path).read_bytes() for path in paths] == before


# ---- job cards --------------------------------------------------------------------------------------------------------------------------

CARD = Path("jobs/learner.json")


def card_is_rewritten(job: Job) -> bool:
    before = CARD.read_bytes() if CARD.exists() else b""
    provenance.write_card(CARD, job)
    return CARD.read_bytes() != before


def test_a_card_is_not_rewritten_while_nothing_changes(finished):
    assert card_is_rewritten(a_job())
    assert not card_is_rewritten(a_job())
    Path("out/provenance.json").unlink()  # Snakemake itself notices a missing output
    assert not card_is_rewritten(a_job())
    assert provenance.read_job(CARD, {}, {}).specification() == a_job().specification()


def test_a_card_is_rewritten_for_another_specification(finished):
    card_is_rewritten(a_job())
    assert card_is_rewritten(a_job(code="c1de"))
    assert card_is_rewritten(a_job())


def test_a_card_is_rewritten_when_the_record_has_another_specification(finished):
    card_is_rewritten(a_job())
    provenance.write_record(a_job(code="older"), {})  # as after a checkout of another revision's results
    assert card_is_rewritten(a_job())
    assert card_is_rewritten(a_job())  # and again, until the job is finished
    provenance.write_record(a_job(), {})
    assert not card_is_rewritten(a_job())


def test_a_card_is_rewritten_when_an_input_was_recorded_with_another_hash(finished):
    card_is_rewritten(a_job())
    upstream = {
        "stage": "invert",
        "wildcards": {},
        "config": {},
        "outputs": {path: artifacts.sha256(path) for path in ("in/a", "in/b", "in/e")},
    }
    artifacts.write_json("in/provenance.json", upstream)
    assert not card_is_rewritten(a_job())
    artifacts.write_json("in/provenance.json", {**upstream, "outputs": {**upstream["outputs"], "in/b": "0" * 64}})
    assert card_is_rewritten(a_job())
    assert provenance.upstream_changed(provenance.read_record("out/provenance.json")) == "input changed: in/b"


# ---- hardware ---------------------------------------------------------------------------------------------------------------------------

HERE = {"device": "cpu", "processor": "x86_64 AVX2", "precision": "float32"}
ELSEWHERE = [{"precision": "bfloat16"}, {"processor": "x86_64 AMX"}, {"device": "cuda", "processor": "NVIDIA H100"}]


def on(hardware, accept_other_hardware=False, **config) -> Job:
    return a_job(config={"seed": 0, **HERE, **hardware, **config}, accept_other_hardware=accept_other_hardware)


@pytest.mark.parametrize("hardware", ELSEWHERE)
def test_a_result_of_other_hardware_is_stale_unless_that_is_accepted(finished, hardware):
    provenance.write_record(on(hardware), {})
    key = next(iter(hardware))
    reason = f"made with {key} {hardware[key]}, not {HERE[key]}"
    assert provenance.stale_reason(on({})) == reason
    assert provenance.stale_reason(on({}, accept_other_hardware=True)) == ""
    assert provenance.stale_reason(on({}, accept_other_hardware=True, seed=1)) == "parameter changed: seed"
    assert provenance.stale_reason(on({}, seed=1)) == "parameter changed: seed"  # a changed parameter is reported first


def test_a_result_without_resolved_hardware_is_stale(finished):
    provenance.write_record(a_job(config={"seed": 0, "device": "auto", "precision": "auto"}), {})
    assert provenance.stale_reason(on({})) == "made with device auto, not cpu"


def test_the_index_of_a_gpu_does_not_matter(finished):
    provenance.write_record(on({"device": "cuda:1", "processor": "NVIDIA H100"}), {})
    assert provenance.stale_reason(on({"device": "cuda", "processor": "NVIDIA H100"})) == ""
    assert provenance.stale_reason(on({"device": "cuda", "processor": "Tesla T4"})) == "made with processor NVIDIA H100, not Tesla T4"


def test_if_other_hardware_is_accepted_the_card_of_a_finished_job_keeps_its_hardware(finished):
    elsewhere = on(ELSEWHERE[0], accept_other_hardware=True)
    card_is_rewritten(elsewhere)
    provenance.write_record(elsewhere, {})
    assert not card_is_rewritten(on({}, accept_other_hardware=True))
    assert provenance.read_job(CARD, {}, {}).config["precision"] == "bfloat16"
    assert card_is_rewritten(on({}, accept_other_hardware=True, seed=1))  # a stale job is computed on this hardware
    assert provenance.read_job(CARD, {}, {}).config["precision"] == "float32"
    assert provenance.read_job(CARD, {}, {}).accept_other_hardware


def test_a_card_holds_whether_other_hardware_is_accepted(finished):
    Path("out/provenance.json").unlink()
    assert card_is_rewritten(on({}, accept_other_hardware=True))
    assert card_is_rewritten(on({}))
    assert not card_is_rewritten(on({}))
    provenance.write_record(on(ELSEWHERE[0]), {})
    assert card_is_rewritten(on({}))


def test_computed_on_names_processor_and_precision():
    assert on({}).computed_on == "float32 on x86_64 AVX2"


def test_a_damaged_card_is_rewritten(finished):
    CARD.parent.mkdir()
    for content in (b"", b"[]", b"\xff", b"{}"):
        CARD.write_bytes(content)
        assert card_is_rewritten(a_job())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "card.json: the file is missing"),
        ("{", "not readable JSON"),
        ("[]", "not a job card, `stage` is missing"),
        ('{"stage": "images", "wildcards": {}, "code": ""}', "not a job card, `config` is missing"),
    ],
)
def test_a_file_that_is_not_a_card_is_refused(tmp_path, content, message):
    card = tmp_path / "card.json"
    if content is not None:
        card.write_text(content)
    with pytest.raises(UserError, match=message):
        provenance.read_job(card, {}, {})


# ---- the hash of the code----------------------------------------------------------------------------------------------------------------

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


def clear_caches():
    for function in (provenance.code_files, provenance.code_hash, provenance._hashed_content, provenance._imports):
        function.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)

    def code_hash(module):
        clear_caches()
        return provenance.code_hash(module)

    yield tmp_path, code_hash
    clear_caches()


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


def test_the_imported_files_of_a_real_stage():
    names = {str(path.relative_to(provenance.PACKAGE)) for path in provenance.code_files("datafree.stages.meta_generator")}
    assert {
        "stages/meta_generator.py",
        "inversion/meta_generator.py",
        "inversion/losses.py",
        "zoo/backbones/base.py",
        "devices.py",
    } <= names
    assert not {name for name in names if name.startswith(("config/", "nas/", "report/")) or name in ("cli.py", "tracking.py", "errors.py")}


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
    stripped = provenance.without_comments(noisy)
    assert syntax_tree(stripped) == syntax_tree(plain) == syntax_tree(noisy)
    assert stripped == provenance.without_comments(plain)


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
    assert provenance.without_comments(before) != provenance.without_comments(after)
