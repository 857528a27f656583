#!/usr/bin/env bash
# What slurm_train.sh and slurm_test.sh share: TOOL NUMBER USAGE PARTITION JOB_NAME CONFIG LAST [options].
set -euo pipefail

tool=$1 number=$2 usage=$3
shift 3
if [ $# -lt "$number" ]; then
  echo "usage: tools/slurm_$tool.sh $usage [options of tools/$tool.py]" >&2
  exit 2
fi
command -v srun >/dev/null || { echo "error: no srun here: start this on a machine of the cluster" >&2; exit 1; }
partition=$1 job_name=$2 config=$3 last=$4
shift 4

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
tasks_per_node=${TASKS_PER_NODE:-$((gpus_per_node > 0 ? gpus_per_node : gpus))}
resources=(--ntasks="$gpus" --ntasks-per-node="$tasks_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}")
[ "$gpus_per_node" -eq 0 ] || resources+=(--gres="gpu:$gpus_per_node")
if [ "$tool" = train ]; then last=(--work-dir "$last"); else last=("$last"); fi

# --kill-on-bad-exit: a task that fails takes the job with it, instead of leaving the others to wait.
# SRUN_ARGS is several options in one variable, so it is to be split.
# shellcheck disable=SC2086
exec srun -p "$partition" --job-name="$job_name" "${resources[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$(dirname "$0")/$tool.py" "$config" "${last[@]}" --launcher slurm "$@"
