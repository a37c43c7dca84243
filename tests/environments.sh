#!/usr/bin/env bash
# Environments for tests and tables of exports in tools that the project does not depend on:
#
#     bash tests/environments.sh FOLDER [tests]
#     export LONGROPE_TRANSFORMERS4=FOLDER/transformers4/bin/python LONGROPE_ENGINES=FOLDER/engines/bin/python
#     pytest tests/test_export*.py
#
# Run it in the project's own environment: both borrow its torch, which is most of the size. With
# `tests` the second holds only llama.cpp, the one engine that the tests run.
set -euo pipefail
place=${1:?a folder to make them in}
ours=$(python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
for name in transformers4 engines; do
  python -m venv "$place/$name"
  theirs=$("$place/$name/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  echo "$ours" > "$theirs/borrowed.pth" # after its own packages on the path
done
engines=(xllamacpp==2026.10.11549)
if [ "${2:-}" != tests ]; then
  engines+=("mlx[cpu]==0.32.4" mlx-lm==0.32.2 onnxruntime-genai==0.18.0 onnx onnx-ir onnxruntime
    ctranslate2==4.8.5 ctransformers==0.2.27)
fi
"$place/transformers4/bin/pip" install --quiet transformers==4.57.6
"$place/engines/bin/pip" install --quiet "${engines[@]}"
