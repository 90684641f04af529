"""How often the check of teacher reliability warns about sound teachers and finds broken ones, on the default zoo of several seeds.

    python benchmarks/reliability_rates.py rates --zoo-seeds 0 1 2 --cores 2

A seed gives other images and other teachers. For each the pipeline runs, from a checkout, up to the check: on the 16 sound teachers of the
default zoo, then on these and four broken ones, two of which were trained on random labels and two are untrained. Writes the measures of
every teacher into the folder, and prints the counts with 95 % intervals (Clopper and Pearson). An interrupted benchmark resumes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from bad_teachers import ZOO, manifest
from scipy.stats import binomtest

from datafree import artifacts
from datafree.errors import exit_on_user_error

BROKEN = 4  # the last ones of the manifest


def run(folder: Path, seed: int, broken: bool, method: str, cores: int) -> list[dict[str, Any]]:
    """Run the pipeline on the zoo of one seed, with or without its broken teachers: the rows of reliability.json."""
    result_file = folder / f"{method}-{seed}-{'broken' if broken else 'sound'}.json"
    if result_file.is_file():
        return artifacts.read_json(result_file, "teachers")["teachers"]
    zoo, settings, place = folder / "zoo.yaml", result_file.with_suffix(".yaml"), folder / f"run-{seed}"
    limit = None if broken else ZOO - BROKEN
    changes = {"seed": seed, "zoo": {"manifest": str(zoo.resolve()), "limit": limit}, "tracking": {"enabled": False}}
    artifacts.write_text(zoo, yaml.safe_dump(manifest(BROKEN, yaml.safe_load(Path("zoos/glyphs.yaml").read_text())["defaults"])))
    artifacts.write_text(settings, yaml.safe_dump(changes))
    snakemake = shutil.which("snakemake")
    assert snakemake is not None, "snakemake is not on the PATH; activate the environment that `make setup` made"
    place.mkdir(exist_ok=True)
    options = ["--snakefile", "Snakefile", "--directory", str(place), "--configfile", str(settings.resolve())]
    target = f"artifacts/tasks/{method}/reliability.json"
    subprocess.run([snakemake, "--cores", str(cores), *options, "--", target], check=True)
    shutil.copyfile(place / target, result_file)
    return artifacts.read_json(result_file, "teachers")["teachers"]


def rate(name: str, count: int, of: int) -> str:
    interval = binomtest(count, of).proportion_ci()
    return f"{name}: {count} of {of} ({100 * interval.low:.1f} to {100 * interval.high:.1f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the runs and their results")
    parser.add_argument("--zoo-seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--method", default="five", help="inversion method of params.yaml")
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for broken in (False, True):
        teachers = [teacher for seed in given.zoo_seeds for teacher in run(given.folder, seed, broken, given.method, given.cores)]
        print("with broken teachers" if broken else "sound teachers alone")
        sound = [teacher["weight"] for teacher in teachers if teacher["name"].startswith("glyphs")]
        print("  " + rate("sound teachers with weight below 1", sum(weight < 1 for weight in sound), len(sound)))
        for kind in ("shuffled", "untrained") if broken else ():
            weights = [teacher["weight"] for teacher in teachers if teacher["name"].startswith(kind)]
            print("  " + rate(f"{kind} teachers with weight 0", weights.count(0), len(weights)))


if __name__ == "__main__":
    with exit_on_user_error("reliability_rates"):
        main()
