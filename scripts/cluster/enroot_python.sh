#!/bin/bash
# Python of an enroot container, for scripts that start Python: PYTHON=scripts/cluster/enroot_python.sh sbatch ...
#
#   IMAGE  the container with fastsemi, NAME.sqsh on storage that all nodes see
#   BIND   a folder that it sees besides the working directory
set -euo pipefail
: "${IMAGE:?is not set: the .sqsh file of a container with fastsemi}"
exec enroot start --mount "$PWD:$PWD" ${BIND:+--mount "$BIND:$BIND"} "$IMAGE" bash -c 'cd "$0" && exec python3 "$@"' "$PWD" "$@"
