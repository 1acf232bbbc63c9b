#!/usr/bin/env bash
# Install the lower bounds of pyproject.toml into an environment of their own and run a target of the Makefile there:
#   bash scripts/oldest_dependencies.sh DIR [PYTHON]
# TARGET=test-quick is the default. HOLD="torch numpy==2.3.5" takes the lower bound of torch and that version of NumPy,
# and of all other packages the newest that go with them.
# PyTorch's CPU wheels are enough: TORCH_INDEX=https://download.pytorch.org/whl/cpu takes them where they can be had.
set -eu
dir=${1:?give the folder of the environment}
python=${2:-python3.11}
cd "$(dirname "$0")/.."
test -x "$dir/bin/python" || "$python" -m venv "$dir"
pip=("$dir/bin/python" -m pip install --quiet --disable-pip-version-check)
extra=()
test -z "${TORCH_INDEX:-}" || extra=(--extra-index-url "$TORCH_INDEX")

# name>=X of the dependencies, and of the parquet extra, as name==X
"$dir/bin/python" - ${HOLD:-} >"$dir/oldest.txt" <<'PYTHON'
import re
import sys
import tomllib

held = {name.split("==")[0]: name for name in sys.argv[1:]}

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for line in [*project["dependencies"], *project["optional-dependencies"]["parquet"]]:
    name, bound = re.match(r"([\w-]+)>=([\d.]+)", line).groups()
    oldest = f"{name}=={bound}"
    if not held:
        print(oldest)
    else:
        print(oldest if held.get(name) == name else held.get(name, f"{name}>={bound}"))
PYTHON
cat "$dir/oldest.txt"
"${pip[@]}" "${extra[@]}" "setuptools>=77" "pybind11==2.13" -r "$dir/oldest.txt"
"${pip[@]}" "pytest>=8" "pytest-timeout>=2.3" "pytest-xdist>=3.6" "scikit-image>=0.24" "hypothesis>=6.100" -r "$dir/oldest.txt"
"${pip[@]}" --no-deps --no-build-isolation --editable .
make -o env "${TARGET:-test-quick}" VENV="$dir" JOBS="${JOBS:-$(nproc)}"
