#!/usr/bin/env bash
# The tests that touch other packages, with the oldest versions that pyproject.toml allows or the newest that there
# are, in an environment of their own:
#
#     bash tests/versions.sh FOLDER oldest
#     bash tests/versions.sh FOLDER newest
#
# TORCH=2.14.0 takes another torch. envs/README.md has what was found.
set -euo pipefail
place=${1:?a folder to make the environment in} which=${2:?oldest or newest}
cd "$(dirname "$0")/.."
case $which in
  oldest) constraints=(-c envs/oldest.txt) ;;
  newest) constraints=() ;;
  *) echo "$which: oldest or newest" >&2 && exit 2 ;;
esac
here=$place/$which
[ -d "$here" ] || python3 -m venv "$here"
"$here/bin/pip" install --quiet "${constraints[@]}" "torch==${TORCH:-2.13.0}" \
  --editable ".[workflow,lora]" pytest hypothesis
"$here/bin/pip" freeze --exclude-editable > "$place/$which.txt"
export PATH=$here/bin:$PATH OMP_NUM_THREADS=1
pytest tests/test_config.py tests/test_rope.py tests/test_models.py tests/test_architectures.py tests/test_own_rope.py \
  tests/test_corpus.py tests/test_training.py tests/test_tunings.py tests/test_search_optimisers.py tests/test_use.py \
  tests/test_export.py tests/test_report.py tests/test_tracking.py tests/test_workflow.py "${@:3}"
