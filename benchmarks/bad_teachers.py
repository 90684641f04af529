"""Effect of broken teachers on the default study, with and without the check of teacher reliability.

    python benchmarks/bad_teachers.py study-of-bad-teachers --cores 2

Runs the pipeline, from a checkout, on zoos of 20 teachers like the default ones; 0, 2 or 5 are broken: trained on random labels, or
untrained. Each zoo runs once with ``tasks.check_teachers`` and, if it has broken teachers, once without. Writes a table and its numbers
into the folder. An interrupted benchmark resumes. Few-shot accuracy is that on the validation classes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from datafree import artifacts
from datafree.errors import exit_on_user_error

ZOO = 20
RESULTS = "artifacts/evaluation/few_shot/results.json"
METHOD = "deep_inversion"


def manifest(broken: int, defaults: dict[str, Any]) -> dict[str, Any]:
    """Sound teachers first; the broken ones are alternately trained on random labels and untrained."""
    sound = [{"name": f"glyphs-{i:02}", "train": {"classes": 8, "seed": i}} for i in range(ZOO - broken)]
    kinds = [{"label_noise": 1.0}, {"steps": 0}]
    names = ["shuffled", "untrained"]
    bad = [{"name": f"{names[i % 2]}-{i // 2}", "train": {"classes": 8, "seed": 100 + i, **kinds[i % 2]}} for i in range(broken)]
    return {"defaults": defaults, "teachers": sound + bad}


def overlay(manifest_file: Path, check: bool, seeds: list[int]) -> dict[str, Any]:
    """Changes to the default configuration: only the better of its two arms; minimal training of the oracle, which is not reported."""
    evaluation = {"split": "validation", "oracle_steps": 1}
    zoo, meta = {"manifest": str(manifest_file.resolve())}, {"seeds": seeds, "arms": {"bell": None}}
    return {"zoo": zoo, "tasks": {"check_teachers": check}, "meta": meta, "evaluation": evaluation, "tracking": {"enabled": False}}


def run(folder: Path, broken: int, check: bool, seeds: list[int], cores: int) -> dict[str, Any]:
    """Run the pipeline on one zoo up to the few-shot results: the arms' rows and the reliability of each teacher."""
    name = f"{broken}-of-{ZOO}-{'checked' if check else 'unchecked'}"
    result_file = folder / f"{name}.json"
    if result_file.is_file():
        return json.loads(result_file.read_text())
    zoo, settings = folder / f"zoo-{broken}.yaml", folder / f"{name}.yaml"
    defaults = yaml.safe_load(Path("zoos/glyphs.yaml").read_text())["defaults"]
    artifacts.write_text(zoo, yaml.safe_dump(manifest(broken, defaults), sort_keys=False, default_flow_style=None, width=140))
    artifacts.write_text(settings, yaml.safe_dump(overlay(zoo, check, seeds)))
    snakemake = shutil.which("snakemake")
    assert snakemake is not None, "snakemake is not on the PATH; activate the environment that `make setup` made"
    place = ["--snakefile", "Snakefile", "--directory", str(folder / "run"), "--configfile", str(settings.resolve())]
    subprocess.run([snakemake, "--cores", str(cores), *place, "--", RESULTS], check=True)
    few_shot = artifacts.read_json(folder / "run" / RESULTS)
    teachers = artifacts.read_json(folder / "run" / f"artifacts/tasks/{METHOD}/reliability.json")["teachers"]
    rows = [row for row in few_shot["rows"] if row["kind"] == "arm"]
    result = {"broken": broken, "checked": check, "rows": rows, "reliability": teachers, "episodes": few_shot["episodes"]}
    artifacts.write_json(result_file, result)
    return result


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row per zoo, checked or not, and arm."""
    lines = ["| broken of 20 | checked | dropped: broken / sound | arm | 1-shot | 5-shot |", "|---:|---|---:|---|---:|---:|"]
    for result in runs:
        dropped = [row["name"] for row in result["reliability"] if row["weight"] < 1]
        sound = sum(name.startswith("glyphs") for name in dropped)
        for row in result["rows"]:
            values = [f"{100 * row['shots'][shot]['mean']:.1f} ± {100 * row['shots'][shot]['interval']:.1f}" for shot in ("1", "5")]
            counts = f"{len(dropped) - sound} / {sound}" if result["checked"] else "–"
            lines.append(
                f"| {result['broken']} | {'yes' if result['checked'] else 'no'} | {counts} | {row['name']} | {' | '.join(values)} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the runs and their results")
    parser.add_argument("--broken", type=int, nargs="+", default=[0, 2, 5], help="how many of the 20 teachers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the arms")
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    (given.folder / "run").mkdir(parents=True, exist_ok=True)
    cases = [(broken, check) for broken in given.broken for check in ((True, False) if broken else (True,))]
    runs = [run(given.folder, broken, check, given.seeds, given.cores) for broken, check in cases]
    artifacts.write_text(given.folder / "table.md", table(runs))
    print(table(runs), end="")


if __name__ == "__main__":
    with exit_on_user_error("bad_teachers"):
        main()
