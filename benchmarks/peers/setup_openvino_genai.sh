#!/bin/sh
# The environment of OpenVINO GenAI and optimum-intel, which converts. In: [FOLDER], out/peers by default.
# optimum-intel asks for torchvision, which the conversion of this model does not need: it is installed without its
# dependencies, and those that it does need are named here. It converts Qwen2.5-VL with transformers up to 5.0 only.
set -eu
cd "$(dirname "$0")/../.."
folder="${1:-out/peers}/openvino_genai/venv"
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet torch==2.13.0
"$folder/bin/python" -m pip install --quiet transformers==4.57.6 "huggingface-hub<1.0" openvino==2026.4.1 \
    openvino-genai==2026.4.1.0 openvino-tokenizers==2026.4.1.0 nncf==3.4.0 optimum==2.3.0 requests pillow==13.0.0
"$folder/bin/python" -m pip install --quiet --no-deps optimum-intel==2.2.0
