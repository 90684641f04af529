"""Stage ``report_page``: reads the files of a study, writes page, table and summary."""

import json

import pytest

from datafree import artifacts
from datafree.stages import report_page
from datafree.workflow.provenance import Job
from tests.index_files import write_index

OUTPUTS = {
    "page": "report/report.html",
    "table": "report/table.txt",
    "summary": "report/summary.json",
    "accuracies": "report/accuracies.csv",
    "curves": "report/curves.csv",
    "provenance": "report/provenance.json",
}


@pytest.fixture
def inputs(tmp_path, monkeypatch, results):
    monkeypatch.chdir(tmp_path)
    artifacts.write_json("few_shot/results.json", results)
    metrics = {"transfer_accuracy": {"mean": 0.8, "interval": 0.02, "n": 2}}
    artifacts.write_json("inversion/quality.json", {"rows": [{"method": "five", "metrics": metrics}]})
    card = {"architecture": {"name": "conv4", "width": 32}, "classes": ["a"], "source": "s", "licence": "l", "accuracy": None}
    for name in ("latin", "greek"):
        artifacts.write_json(f"zoo/{name}/card.json", {"name": name, **card})
        artifacts.write_text(f"pools/five/{name}/preview.png", f"png of {name}")
    for seed in (0, 1):
        artifacts.write_history(f"meta/bell/seed{seed}/history.csv", [{"step": 1, "episode": 0.5}, {"step": 2, "episode": 0.25}])
    facts = {"algorithm": "spos", "genotype": "|g|", "macs": 4000, "parameters": 200, "agreement": 0.5}
    artifacts.write_json("nas/spos/architecture.json", facts)
    artifacts.write_history("nas/spos/candidates.csv", [{"step": 1, "choice_0": 3, "macs": 4000, "agreement": 0.5}])
    artifacts.write_json("nas/spos/retrained/metrics.json", {"agreement": 0.75})
    rows = [{"name": "latin", "weight": 1.0, "reason": ""}, {"name": "greek", "weight": 0.0, "reason": "agreement 0.41, not <0.8>"}]
    artifacts.write_json("tasks/five/reliability.json", {"not_judged": "", "teachers": rows})
    value = {"mean": 0.765, "interval": 0.01, "n": 600}
    network = {"name": "bell", "kind": "learner", "members": ["bell"], "parameters": 113, "macs": 5_000_000, "shots": {"1": value}}
    artifacts.write_json("networks/networks.json", {"reason": "", "way": 5, "computed_on": [], "rows": [network]})
    artifacts.write_json("networks/times.json", {"milliseconds": {"learner/bell": 12.345}})
    for path in ("nas/spos/cell.png", "data/preview.png", "inversion/real.png"):
        artifacts.write_text(path, f"png at {path}")
    return {
        "few_shot": "few_shot/results.json",
        "networks": "networks/networks.json",
        "times": "networks/times.json",
        "quality": "inversion/quality.json",
        "real_preview": "inversion/real.png",
        "data_preview": "data/preview.png",
        "generator_history": "meta/bell/seed0/history.csv",
        "zoo": write_index("zoo/index.json", {name: [f"zoo/{name}/card.json"] for name in ("latin", "greek")}),
        "reliability": ["tasks/five/reliability.json"],
        "histories": ["meta/bell/seed0/history.csv", "meta/bell/seed1/history.csv"],
        "architectures": "nas/spos/architecture.json",  # one file is no list on the command line
        "drawings": ["nas/spos/cell.png"],
        "candidates": ["nas/spos/candidates.csv"],
        "retrained": ["nas/spos/retrained/metrics.json"],
        "pools": [write_index("pools/five/index.json", {name: [f"pools/five/{name}/preview.png"] for name in ("latin", "greek")})],
    }


def run(inputs):
    report_page.run(Job("report_page", {}, {"seed": 0, "nas": {"algorithms": {"spos": {"max_macs": 5000}}}}, "c0de", inputs, OUTPUTS))
    return artifacts.read_json(OUTPUTS["summary"])


def test_tables_for_plots_have_one_row_per_value(inputs, tmp_path, results):
    run(inputs)
    curves = (tmp_path / OUTPUTS["curves"]).read_text().splitlines()
    assert curves[:3] == ["learner,step,metric,value", '"bell, seed0",1,episode,0.5', '"bell, seed0",2,episode,0.25']
    assert len(curves) == 5
    accuracies = (tmp_path / OUTPUTS["accuracies"]).read_text().splitlines()
    assert accuracies[0] == "name,kind,accuracy,interval"
    assert len(accuracies) == 1 + sum(len(row["shots"]) for row in results["rows"])
    row = results["rows"][0]
    shot, result = next(iter(row["shots"].items()))
    assert accuracies[1] == f'"{row["name"]}, {shot}-shot",{row["kind"]},{result["mean"]:.6g},{result["interval"]:.6g}'


def test_all_inputs(inputs, tmp_path):
    summary = run(inputs)
    page = (tmp_path / OUTPUTS["page"]).read_text()
    assert page.count("data:image/png;base64,") == 5
    assert page.count('<polyline class="curve"') + page.count('class="curve"') >= 3
    for name in ("latin", "greek", "distillation", "|g|", "75.0 %", "Learner bell"):
        assert name in page
    table = (tmp_path / OUTPUTS["table"]).read_text()
    assert "91.1 ± 0.6" in table
    assert table.endswith("\nwarning: teacher greek is not used (pool recovered by five): agreement 0.41, not <0.8>\n")
    assert "<li>Teacher greek is not used (pool recovered by five): agreement 0.41, not &lt;0.8&gt;.</li>" in page
    assert "not judged" not in table
    assert "<td>learner</td><td>1</td><td>113</td><td>5.00 M</td><td>12.3</td><td>76.5 ± 1.0</td>" in page
    assert "Of the single networks, bell is the most accurate" in page
    assert '<td title="agreement 0.41, not &lt;0.8&gt;">0.00</td>' in page
    assert summary["teachers"] == 2
    assert summary["few_shot"]["distillation"] == {"1-shot": 0.766, "5-shot": 0.911}
    assert summary["inversion"] == {"five": {"transfer_accuracy": 0.8}}
    assert summary["architectures"] == {"spos": {"macs": 4000, "parameters": 200}}
    assert not (tmp_path / OUTPUTS["provenance"]).exists()  # the caller writes it


def test_the_table_and_the_page_say_that_the_teachers_are_not_judged(inputs, tmp_path):
    rows = [{"name": name, "weight": 1.0, "reason": ""} for name in ("latin", "greek")]
    artifacts.write_json(inputs["reliability"][0], {"not_judged": "the zoo has 2", "teachers": rows})
    run(inputs)
    expected = "he reliability of the teachers is not judged (pools recovered by five): the zoo has 2"
    assert (tmp_path / OUTPUTS["table"]).read_text().endswith(f"\nwarning: t{expected}\n")
    assert f"<li>T{expected}.</li>" in (tmp_path / OUTPUTS["page"]).read_text()


def test_same_files_same_bytes(inputs, tmp_path):
    before = [(run(inputs), (tmp_path / OUTPUTS["page"]).read_bytes())[1] for _ in range(2)]
    assert before[0] == before[1]


@pytest.mark.parametrize(
    "absent",
    ["few_shot", "networks", "quality", "real_preview", "data_preview", "generator_history", "zoo", "histories", "architectures",
     "drawings", "candidates", "retrained", "pools"],
)  # fmt: skip
def test_any_input_may_be_absent(inputs, absent):
    gone = {"networks": ("networks", "times"), "architectures": ("architectures", "drawings", "candidates", "retrained")}.get(
        absent, (absent,)
    )
    summary = run({name: value for name, value in inputs.items() if name not in gone})
    assert summary["teachers"] == (0 if absent == "zoo" else 2)
    assert bool(summary["few_shot"]) is (absent != "few_shot")


def test_nothing_at_all(inputs, tmp_path):
    assert run({}) == {"teachers": 0, "few_shot": {}, "inversion": {}, "gradient_cosine": {}, "architectures": {}}
    assert (tmp_path / OUTPUTS["table"]).read_text() == "no few-shot results yet\n"
    assert json.loads((tmp_path / OUTPUTS["summary"]).read_text())["teachers"] == 0
