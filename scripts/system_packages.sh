#!/usr/bin/env bash
# Install the system packages that optional parts need, where apt-get and the rights to use it exist.
# Nothing here is required: without them the parts say so and are skipped.
set -u
needed=(python3-venv g++ pkg-config libturbojpeg0-dev libjpeg62-turbo-dev libopencv-dev dataset-fashion-mnist)
if ! command -v dpkg-query >/dev/null; then
  echo "no Debian packages here: for the C++ decoder install a C++ compiler and libjpeg-turbo's headers yourself"
  exit 0
fi
missing=()
for package in "${needed[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
run=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    run=(sudo)
  else
    echo "no rights to install ${missing[*]}: optional parts that need them are skipped; run 'sudo apt-get install ${missing[*]}' to have them"
    exit 0
  fi
fi
echo "installing system packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${run[@]}" apt-get update -qq || true
for package in "${missing[@]}"; do
  "${run[@]}" apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
    echo "could not install $package: optional parts that need it are skipped"
done
exit 0
