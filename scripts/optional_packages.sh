#!/usr/bin/env bash
# Install the packages of optional engines, sources and exports, and of a peer in benchmarks, with the pip given: DALI, FFCV,
# pyarrow, obstore, ONNX, SPDL.
# Each that cannot be installed is named, and its tests are skipped.
set -u
pip=$1
shift
limit=()
command -v timeout >/dev/null && limit=(timeout "${OPTIONAL_MINUTES:-6}m") # for each package
install() { # what it is for, packages
  local what=$1
  shift
  if "${limit[@]}" "$pip" install --quiet --disable-pip-version-check --constraint constraints.txt "$@"; then
    echo "$what: installed"
  else
    echo "$what: could not be installed, its tests are skipped; try '$pip install $*'"
  fi
}
case "$(uname -s)-$(uname -m)" in
  Linux-x86_64 | Linux-aarch64) install "the dali engine" nvidia-dali-cuda130 ;;
  *) echo "the dali engine: DALI is for Linux only, its tests are skipped" ;;
esac
if command -v pkg-config >/dev/null && pkg-config --exists opencv4 libturbojpeg; then
  install "the ffcv engine" ffcv
else
  echo "the ffcv engine: needs pkg-config, libopencv-dev and libturbojpeg0-dev, its tests are skipped"
fi
install "the parquet source" pyarrow
install "images at URLs" obstore
install "a server of S3 for the tests" 'moto[s3]' flask flask-cors
install "the loggers wandb and mlflow" wandb mlflow-skinny
install "SPDL's threads in the benchmark" spdl-core 'torchcodec>=0.16'
install "the ONNX export" onnx onnxscript onnxruntime
exit 0
