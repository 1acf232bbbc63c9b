#!/bin/bash
# Python of a container, for scripts that start Python: PYTHON=scripts/cluster/apptainer_python.sh sbatch ...
#
#   IMAGE  the container with fastsemi, NAME.sif on storage that all nodes see
#   BIND   folders that it sees besides the working directory and home, a,b
set -euo pipefail
: "${IMAGE:?is not set: the .sif file of a container with fastsemi}"
exec apptainer exec --nv ${BIND:+--bind "$BIND"} "$IMAGE" python3 "$@"
