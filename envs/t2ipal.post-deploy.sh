#!/usr/bin/env bash
# Run in the repository's root, in the environment that t2ipal.yaml made.
set -euo pipefail
python -m pip install --require-hashes -r envs/requirements.txt
python -m pip install --no-deps --no-build-isolation -e .
