#!/bin/sh
# The environment of this project's runtime: what a device needs, nothing of export. In: [FOLDER], out/peers by default.
set -eu
cd "$(dirname "$0")/../.."
folder="${1:-out/peers}/fgr_edge/venv"
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --constraint constraints.txt --editable ".[cpu]"
