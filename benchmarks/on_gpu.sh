#!/usr/bin/env bash
# What is measured on a GPU, each part under its own time limit, in the order of its worth. Usage:
#   benchmarks/on_gpu.sh FOLDER [PART...]
# FOLDER receives the log, the results and the wall time of every part, and the utilisation of the GPUs while it ran (once per second).
# Parts: tests engine learners classify smoke default student study. `student` needs CIFAR10_CHECKPOINTS and CIFAR10_IMAGES, the folders that
# benchmarks/cifar10_student.py takes, `study` needs CIFAR_FS, the folder that presets/cifar-fs.yaml takes, and the published zoo; without
# them they are left out. SMALL=1 tries the script with small numbers, also without a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "on_gpu.sh: expected a folder for the results" >&2; exit 2; }
folder=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(tests engine learners classify smoke default student study)
python=${PYTHON:-.venv/bin/python}
small=${SMALL:-}

snakemake() { # runs the pipeline in a folder of its own, from the start
	local name=$1
	shift
	"$python" -m snakemake --snakefile Snakefile --directory "$folder/$name-run" --cores all --resources gpu="${GPUS:-1}" --configfile "$PWD/params.yaml" "$@"
}

run() { # run NAME SECONDS COMMAND...: under a time limit, with log, wall time and utilisation
	local name=$1 limit=$2 began sampler=
	shift 2
	echo "$(date +%T) $name"
	if command -v nvidia-smi >/dev/null; then
		nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader,nounits --loop=1 >"$folder/$name.utilisation.csv" &
		sampler=$!
	fi
	began=$(date +%s.%N)
	timeout --kill-after=10 "$limit" bash -c '"$@"' run "$@" >"$folder/$name.log" 2>&1
	echo "{\"part\": \"$name\", \"exit_status\": $?, \"seconds\": $(awk "BEGIN {print $(date +%s.%N) - $began}")}" | tee "$folder/$name.time.json"
	[ -z "$sampler" ] || kill "$sampler"
}

export -f snakemake
export folder python
for part in "${parts[@]}"; do
	case $part in
	tests) run tests 240 "$python" -m pytest -m gpu -q -k "not smoke_preset" ;; # that is a part of its own
	engine)
		options=(--compile --large-batch 100)
		[ -z "$small" ] || options=(--teachers 3 --alone 2 --images 4 --steps 2 --counts 1 3 --repeats 1)
		run engine 300 "$python" benchmarks/recovery_engine.py --output "$folder/engine.json" "${options[@]}" ;;
	learners)
		options=()
		[ -z "$small" ] || options=(--teachers 4 --steps 2 --repeats 1)
		run learners 180 "$python" benchmarks/learner_steps.py --output "$folder/learners.json" "${options[@]}" ;;
	classify)
		options=(--threads "$(nproc)")
		[ -z "$small" ] || options=(--images 20 --repeats 1)
		run classify 120 "$python" benchmarks/classify_speed.py --output "$folder/classify.json" "${options[@]}" ;;
	smoke) run smoke 240 snakemake smoke "$PWD/presets/smoke.yaml" ;;
	default)
		options=()
		[ -z "$small" ] || options=("$PWD/presets/smoke.yaml")
		run default 400 snakemake default "${options[@]}" ;;
	student)
		[ -n "${CIFAR10_CHECKPOINTS:-}" ] && [ -n "${CIFAR10_IMAGES:-}" ] || { echo "student: left out, CIFAR10_CHECKPOINTS or CIFAR10_IMAGES is not set"; continue; }
		options=(--images-per-class 3000 --method '{method: pixels, steps: 300, batch_size: 250, flip: true}' --student-steps 12000)
		[ -z "$small" ] || options=(--images-per-class 2 --method '{method: pixels, steps: 2, batch_size: 20}' --student-steps 2)
		run student 700 "$python" benchmarks/cifar10_student.py --device auto --checkpoints "$CIFAR10_CHECKPOINTS" --images "$CIFAR10_IMAGES" \
			--output "$folder/student" "${options[@]}" ;;
	study)
		[ -n "${CIFAR_FS:-}" ] || { echo "study: left out, CIFAR_FS is not set"; continue; }
		options=("$PWD/presets/cifar-fs-study.yaml")
		[ -z "$small" ] || options+=("$PWD/presets/cifar-fs-study-small.yaml")
		run study 1200 snakemake study "$PWD/presets/cifar-fs.yaml" "${options[@]}" --config "data={folder: $CIFAR_FS}" ;;
	*) echo "on_gpu.sh: expected tests, engine, learners, classify, smoke, default, student or study, got $part" >&2; exit 2 ;;
	esac
done
