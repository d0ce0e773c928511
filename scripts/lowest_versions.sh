#!/usr/bin/env bash
# Test against the lowest versions of the dependencies that pyproject.toml declares.
#
#     scripts/lowest_versions.sh                        # an environment in a temporary folder, removed afterwards
#     PYTHON=python3.12 scripts/lowest_versions.sh DIR  # an environment in DIR, kept, with another Python
#
# Installs with uv (--resolution lowest-direct), then imports every public name, runs `storm demo`, and runs the tests of
# the verbs, the bridge and the readers. Takes about 7 GB of disk: torch's default wheel comes with CUDA.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
environment=${1:-$scratch/environment}
python=${PYTHON:-python3.11}

"$python" -m venv "$scratch/uv"
"$scratch/uv/bin/pip" install --quiet uv
uv=$scratch/uv/bin/uv
# With bytecode: warnings are errors in tests, and some of these versions warn while they are compiled.
"$uv" venv --quiet --python "$python" "$environment"
"$uv" pip install --quiet --python "$environment/bin/python" --resolution lowest-direct --compile-bytecode \
  --editable "$root[test]"
"$uv" pip list --python "$environment/bin/python" >"$scratch/versions.txt"
grep -E '^(anndata|dask|numba|numpy|pandas|scanpy|spatialdata|torch|zarr) ' "$scratch/versions.txt"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
unset PYTHONPATH
cd "$scratch"
"$environment/bin/python" -W ignore - <<'PYTHON'
import importlib
import storm

for room in (storm, *(getattr(storm, name) for name in ("tl", "pl", "pp", "io", "datasets", "metrics"))):
    for name in room.__all__:
        getattr(room, name)
for name in ("model", "encoders", "expression", "pretraining", "cli"):
    importlib.import_module(f"storm.{name}")
print("every public name is imported")
PYTHON
"$environment/bin/storm" demo --quiet
cd "$root"
"$environment/bin/python" -m pytest -q -p no:cacheprovider tests/tl tests/bridge tests/io tests/test_package.py
