#!/usr/bin/env bash
# Packages that a GPU machine without network may lack, in one file that travels with the tree:
#   bash gpu/carry.sh FILE.tar.xz [PYTHON_VERSION]
# On the machine: mkdir -p DIR && tar -C DIR -xf FILE.tar.xz, and DIR on PYTHONPATH. What PyTorch and timm bring is
# not in it.
set -euo pipefail
file=${1:?give the file to write}
version=${2:-3.12}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
platforms=()
for name in manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64; do
  platforms+=(--platform "$name")
done
"${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --no-compile \
  --python-version "$version" --implementation cp "${platforms[@]}" --target "$folder" \
  jsonargparse docstring-parser typeshed-client importlib-resources rich markdown-it-py mdurl pygments simplejpeg \
  scikit-learn scipy joblib threadpoolctl narwhals cloudpickle pytest pluggy iniconfig pytest-timeout pybind11 \
  tensorboard absl-py grpcio protobuf markdown werkzeug markupsafe
find "$folder" -type d -name tests -prune -exec rm -rf {} +
mkdir -p "$(dirname "$file")"
tar -C "$folder" -c . | xz -T0 >"$file"
du -m "$file"
