#!/bin/sh
# The environment of transformers, eager and compiled. Compiling needs a C++ compiler. In: [FOLDER], out/peers by default.
set -eu
cd "$(dirname "$0")/../.."
folder="${1:-out/peers}/transformers/venv"
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
command -v c++ > /dev/null || echo "no C++ compiler: torch.compile will fail, eager will run" >&2
"$folder/bin/python" -m pip install --quiet torch==2.13.0
"$folder/bin/python" -m pip install --quiet --constraint constraints.txt transformers pillow jinja2 --editable ".[cpu]"
