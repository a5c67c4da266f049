#!/bin/sh
# The environment of llama.cpp: llama-cpp-python, built for this processor (some minutes), and the gguf package.
# In: [FOLDER], out/peers by default. Needs a C++ compiler.
set -eu
cd "$(dirname "$0")/../.."
folder="${1:-out/peers}/llama_cpp/venv"
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet gguf==0.19.0 numpy==2.4.6 pillow==13.0.0
CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
-DLLAMA_BUILD_SERVER=OFF" "$folder/bin/python" -m pip install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36
