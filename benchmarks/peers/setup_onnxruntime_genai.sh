#!/bin/sh
# The environment of ONNX Runtime GenAI and its model builder. In: [FOLDER], out/peers by default.
set -eu
cd "$(dirname "$0")/../.."
folder="${1:-out/peers}/onnxruntime_genai/venv"
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet torch==2.13.0
"$folder/bin/python" -m pip install --quiet onnxruntime-genai==0.18.0 onnxruntime==1.31.1 onnx==1.23.2 onnx-ir==1.1.0 \
    transformers==5.23.0 numpy==2.4.6
