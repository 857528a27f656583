#!/usr/bin/env bash
# The tool test under Slurm: GPUS=8 tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# Variables: as slurm_train.sh has them.
set -euo pipefail
exec "$(dirname "$0")/slurm_job.sh" test 4 "PARTITION JOB_NAME CONFIG CHECKPOINT" "$@"
