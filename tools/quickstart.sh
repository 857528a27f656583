#!/usr/bin/env bash
# From a fresh checkout to a trained detector, segmentor and classifier, with scores and pictures. Runs on a laptop CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
prepare ""
say "Training and evaluating a classifier, a detector and a segmentor on bundled digits"
exec "$PYTHON" -m bestiary.tools.quickstart "$@"
