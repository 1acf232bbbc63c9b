#!/bin/bash
# Copy a data set to this machine's own disk, once:  bash stage.sh FROM TO
#
# Files that are there with the same length are left; jobs that start together on a machine wait for the one that
# copies. STAGE_JOBS files are copied at a time (8). A file appears under its name when it is complete.
set -euo pipefail

from=${1:?give the folder to copy} to=${2:?give the folder to copy to}
[[ -d $from ]] || { echo "stage.sh: $from is no folder" >&2; exit 2; }
mkdir -p "$to"
exec 9> "$to/.stage.lock"
flock 9

copy() { # one file, by its path below FROM
    local source=$1/$3 target=$2/$3
    [[ -f $target && $(stat -Lc %s "$source") == "$(stat -c %s "$target")" ]] && return
    mkdir -p "$(dirname "$target")"
    cp -L "$source" "$target.part"
    mv "$target.part" "$target"
}
export -f copy

free=$(df --output=avail --block-size=1 "$to" | tail -n 1)
there=$(find "$to" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%.0f", n }')
wanted=$(find -L "$from" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%.0f", n }')
if ((wanted - there > free)); then
    echo "stage.sh: $from needs $wanted bytes; $to holds $there and has room for $free" >&2
    exit 1
fi
(cd "$from" && find -L . -type f -printf '%P\0') |
    xargs -0 -P "${STAGE_JOBS:-8}" -I{} bash -c 'copy "$@"' _ "$from" "$to" {}
