#!/usr/bin/env bash
# Runs the tests that need an accelerator, and all benchmarks, in under 8 minutes, on a machine without network.
#
# The machine has Python with jax, flax, optax, orbax-checkpoint and chex. Anything else comes as wheels/, which
# benchmarks/wheels.sh fetches beforehand, elsewhere; nothing is written outside of the checkout and a temporary folder.
#
#     benchmarks/gpu.sh                                                # on a GPU
#     JAX_PLATFORMS=tpu,cpu benchmarks/gpu.sh
#     JAX_PLATFORMS=cpu BENCHMARK_SECONDS=1 BENCHMARK_OPTIONS="--only textbook.*batch=32" benchmarks/gpu.sh     # a trial
#
# PYTHON             the interpreter; default python3
# OUT                a folder that gets a copy of the results, and log.txt
# BENCHMARK_SECONDS  seconds of measuring for each case; default 6
# BENCHMARK_OPTIONS  further options of benchmarks.run for the image classifiers
# BENCHMARK_GAN      what of the adversarial presets is measured, one a line; default all of the lines below
# TOTAL_SECONDS      when it must be over; default 465
# RESULTS            where the results go; default benchmarks/results
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
BENCHMARK_SECONDS=${BENCHMARK_SECONDS:-6}
BENCHMARK_OPTIONS=${BENCHMARK_OPTIONS:-}
BENCHMARK_GAN=${BENCHMARK_GAN-"configs/mnist_dcgan.py
configs/mnist_dcgan.py --polyphase
configs/cifar10_sngan.py"}
TOTAL_SECONDS=${TOTAL_SECONDS:-465}
RESULTS=${RESULTS:-benchmarks/results}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$work/log.txt
if [[ -n ${OUT:-} ]]; then
  mkdir -p "$OUT"
  log=$OUT/log.txt
fi
: >"$log"
names=() codes=() durations=()

# Appends what a part measured to the history, and copies it out at once: a machine may go away at any moment.
collect() {
  local file target
  for file in "$work"/new/*/*.jsonl; do
    [[ -f $file ]] || continue
    for target in "$RESULTS" ${OUT:+"$OUT/results"}; do
      mkdir -p "$target/$(basename "$(dirname "$file")")"
      cat "$file" >>"$target/$(basename "$(dirname "$file")")/$(basename "$file")"
    done
  done
  rm -rf "$work/new"
}

# part NAME SECONDS COMMAND...: runs a command for at most so many seconds and to the end of the whole at most.
part() {
  local name=$1 limit=$2 left=$((TOTAL_SECONDS - SECONDS)) began=$SECONDS code
  shift 2
  ((limit > left)) && limit=$left
  printf '\n=== %s, at most %s s\n' "$name" "$limit" | tee -a "$log"
  if ((limit > 0)); then
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$log"
    code=${PIPESTATUS[0]}
  else
    code=124
  fi
  collect
  names+=("$name") codes+=("$code") durations+=($((SECONDS - began)))
}

install_wheels() {
  local wheels=(wheels/*.whl)
  [[ -e ${wheels[0]} ]] || { echo "no wheels/: running with what is installed" && return; }
  "$PYTHON" -m pip install --quiet --no-index --find-links wheels --no-deps --no-compile --no-cache-dir \
    --disable-pip-version-check --upgrade --target "$work/site" "${wheels[@]}" && return
  echo "pip cannot install them; unpacking"
  local wheel
  for wheel in "${wheels[@]}"; do
    "$PYTHON" -m zipfile -e "$wheel" "$work/site" || return
  done
}

describe_machine() {
  command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total,utilization.gpu --format=csv
  nproc && uptime
  "$PYTHON" -c '
import os, platform, jax
from jaxai.runtime import chips
device, wanted = jax.devices()[0], os.environ["JAX_PLATFORMS"].split(",")[0]
print("Python", platform.python_version(), "jax", jax.__version__, jax.devices(), chips.name(device))
assert device.platform == {"cuda": "gpu", "rocm": "gpu"}.get(wanted, wanted), f"no {wanted} here"'
}

if [[ -f wheels/commit.txt && -z ${BENCHMARK_COMMIT:-} ]] && ! git rev-parse HEAD >/dev/null 2>&1; then
  BENCHMARK_COMMIT=$(<wheels/commit.txt)
  export BENCHMARK_COMMIT
fi
export PYTHONPATH=$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}
# `timeout` starts programs, not functions of this shell.
export PYTHON work
export -f install_wheels describe_machine

mapfile -t tests < <(grep -rl --include='*.py' 'mark\.accelerator' tests)
measure=("$PYTHON" -m benchmarks.run --results "$work/new" --seconds "$BENCHMARK_SECONDS")

part "wheels" 60 bash -c install_wheels
part "machine" 60 bash -c describe_machine
# Without the chip that was asked for, tests would be skipped and figures of the CPU taken for its own.
if [[ ${codes[-1]} == 0 ]]; then
  part "accelerator tests" 150 "$PYTHON" -m pytest -m accelerator -p no:cacheprovider -q "${tests[@]}"
  # shellcheck disable=SC2086  # the options are several words
  part "image classifiers" 240 "${measure[@]}" $BENCHMARK_OPTIONS
  while read -r -a preset; do
    ((${#preset[@]})) && part "${preset[*]}" 90 "$PYTHON" -m benchmarks.run "${preset[@]}" "${measure[@]:3}"
  done <<<"$BENCHMARK_GAN"
  part "first step" 90 "$PYTHON" -m benchmarks.startup --results "$work/new" --repeats 1
fi

printf '\n=== summary after %s s\n' "$SECONDS" | tee -a "$log"
failed=0
for i in "${!names[@]}"; do
  case ${codes[i]} in
    0) verdict="ok" ;;
    124 | 137) verdict="out of time" failed=1 ;;
    *) verdict="failed, exit code ${codes[i]}" failed=1 ;;
  esac
  printf '%-20s %4s s  %s\n' "${names[i]}" "${durations[i]}" "$verdict" | tee -a "$log"
done
exit "$failed"
