#!/usr/bin/env bash
# The tool train under Slurm: GPUS=16 tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
# GPUS: processes in all (8); GPUS_PER_NODE (8, or GPUS if fewer); CPUS_PER_TASK (5); SRUN_ARGS: more options of srun;
# MASTER_PORT of the first node (29500); PYTHON. GPUS_PER_NODE=0 asks for no GPUs: TASKS_PER_NODE processes a node on gloo.
set -euo pipefail
exec "$(dirname "$0")/slurm_job.sh" train 4 "PARTITION JOB_NAME CONFIG WORK_DIR" "$@"
