#!/usr/bin/env bash
# Fetches into wheels/ what benchmarks/gpu.sh needs beyond jax, flax, optax, orbax-checkpoint and chex, for a machine
# without network. Run it where there is one:
#
#     benchmarks/wheels.sh                                    # for Python 3.12 on Linux x86-64
#     PYTHON_VERSION=3.11 PLATFORM=manylinux2014_aarch64 benchmarks/wheels.sh
#
# The list is complete, so pip resolves nothing: what the machine has already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
PYTHON_VERSION=${PYTHON_VERSION:-3.12}
PLATFORM=${PLATFORM:-manylinux2014_x86_64}
MOST_MIB=${MOST_MIB:-48}  # with the checkout it has to stay below 64

needed=(tyro docstring-parser typeguard typing-extensions rich markdown-it-py mdurl pygments
  pytest iniconfig pluggy packaging mlxtend)
pictures=(matplotlib contourpy cycler fonttools kiwisolver pyparsing python-dateutil six pillow)

fetch() {
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
    --python-version "$PYTHON_VERSION" --platform "$PLATFORM" --platform "${PLATFORM/manylinux2014/manylinux_2_28}" \
    --platform "${PLATFORM/manylinux2014/manylinux_2_27}" --dest wheels "$@"
}
size() { du -sm wheels | cut -f1; }

rm -rf wheels
mkdir wheels
fetch "${needed[@]}"
if [[ ${PICTURES:-1} == 1 ]]; then
  fetch "${pictures[@]}"
fi
# A copy of the checkout may come without its history.
if commit=$(git rev-parse HEAD 2>/dev/null); then
  [[ -z $(git status --porcelain --untracked-files=no) ]] || commit+=-dirty
  echo "$commit" >wheels/commit.txt
fi
echo "wheels/: $(find wheels -name '*.whl' | wc -l) wheels, $(size) MiB, for Python $PYTHON_VERSION on $PLATFORM"
if (($(size) > MOST_MIB)); then
  echo "wheels/ is larger than $MOST_MIB MiB; leave the pictures out with PICTURES=0" >&2
  exit 1
fi
