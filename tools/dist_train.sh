#!/usr/bin/env bash
# The tool train in several processes on this machine: tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each. MAX_RESTARTS=N starts the job again, at most N
# times, when a process has died.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: tools/dist_train.sh CONFIG PROCESSES [options]" >&2
  exit 2
fi
what=("$1") processes=$2
shift 2
nodes=${NNODES:-1} address=${MASTER_ADDR:-127.0.0.1} port=${PORT:-29500}
# The machine of NODE_RANK 0 is where the others meet; ranks are then dealt out by c10d.
meet=(--rdzv_backend=c10d --rdzv_endpoint="$address:$port" --rdzv_id="${JOB_ID:-$port}")
if [ "$nodes" != 1 ]; then
  meet+=(--rdzv_conf="is_host=$([ "${NODE_RANK:-0}" = 0 ] && echo true || echo false)")
fi
exec "${PYTHON:-python}" -m torch.distributed.run --nnodes="$nodes" --nproc_per_node="$processes" \
  "${meet[@]}" --max-restarts="${MAX_RESTARTS:-0}" \
  "$(dirname "$0")/train.py" "${what[@]}" --launcher pytorch "$@"
