#!/usr/bin/env bash
# Runs once in the environment of longrope.yaml, from the working directory of the workflow.
set -euo pipefail
pip install --no-deps --editable .
