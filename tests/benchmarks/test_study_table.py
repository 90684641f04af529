"""The study table from the folder of a finished run."""

from pathlib import Path

import pytest
import study_table

from datafree import artifacts
from datafree.errors import UserError


def row(name: str, kind: str, means: tuple[float, float], seeds: tuple[int, ...] = (0,), variant: str = "") -> dict:
    accuracies = {shot: {"mean": mean, "interval": 0.01, "n": 600} for shot, mean in zip(("1", "5"), means, strict=True)}
    return {"name": name, "kind": kind, "variant": variant, "networks": 1, "seeds": list(seeds), "shots": accuracies}


@pytest.fixture
def finished(tmp_path) -> Path:
    rows = [
        row("slow", "arm", (0.4, 0.5), (0, 1)),
        row("good", "arm", (0.5, 0.7), (0, 1)),
        row("good transductive", "arm", (0.5, 0.6), (0, 1), "transductive"),
        row("pixels", "baseline", (0.2, 0.3)),
    ]
    settings = {"computed_on": ["float32 on x86_64 AVX2"], "split": "test", "way": 5, "query": 15, "episodes": 600}
    artifacts.write_json(tmp_path / "artifacts/evaluation/few_shot/results.json", {**settings, "rows": rows})
    for method, cost, inputs in (("five", 2.0, {"generator": "x"}), ("pixels", 10.0, {})):
        for teacher in ("a", "b"):
            artifacts.write_json(tmp_path / f"artifacts/inversion/{method}/{teacher}/provenance.json", {"inputs": inputs})
            artifacts.write_json(tmp_path / f"logs/timings/invert/{method}.{teacher}.json", {"cpu_seconds": cost})
    artifacts.write_json(tmp_path / "logs/timings/meta_generator/meta_generator.json", {"cpu_seconds": 40.0})
    for arm, method in (("slow", "five"), ("good", "pixels")):
        for seed in (0, 1):
            folder = tmp_path / f"artifacts/meta/{arm}/seed{seed}"
            artifacts.write_json(folder / "card.json", {"inversion": method})
            curve = [{"step": 1, "gradient_cosine": 0.9}, {"step": 2}, {"step": 3, "gradient_cosine": 0.1 + 0.2 * seed}]
            artifacts.write_history(folder / "history.csv", curve if arm == "slow" else [{"step": 1, "loss": 1.0}])
            artifacts.write_json(tmp_path / f"logs/timings/learner/{arm}.{seed}.json", {"cpu_seconds": 30.0 + 10 * seed})
    return tmp_path


def test_rows_hold_accuracy_and_cost_and_are_sorted_by_accuracy(finished, capsys):
    study_table.main(["--run", str(finished)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "**Trained without data**", "good", "good transductive", "slow", "**Baselines**", "pixels",
    ]  # fmt: skip
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]}
    assert cells["slow"] == ["five", "1", "2", "40.0 ± 1.0", "50.0 ± 1.0", "0.200", "44", "35"]
    assert cells["good"] == ["pixels", "1", "2", "50.0 ± 1.0", "70.0 ± 1.0", "", "20", "35"]
    assert cells["pixels"] == ["–", "1", "1", "20.0 ± 1.0", "30.0 ± 1.0", "", "", ""]
    assert len({line.count("|") for line in lines}) == 1


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="results.json"):
        study_table.main(["--run", str(tmp_path)])
