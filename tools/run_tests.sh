#!/usr/bin/env bash
# The tests, in an environment of their own making. Arguments go to pytest: tools/run_tests.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
prepare dev
say "Checking the style"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check --quiet . || fail "some files are not formatted; run: ruff format ."
say "Running the tests"
exec "$PYTHON" -m pytest -n 2 --dist worksteal "$@"
