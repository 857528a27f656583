#!/usr/bin/env bash
# The tool train in several processes on this machine: tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each. MAX_RESTARTS=N starts the job again, at most N
# times, when a process has died.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: tools/dist_train.sh CONFIG PROCESSES [options]" >&2
  exit 2
fi
here=$(dirname "$0")
. "$here/dist_launch.sh"
launch "$2" "$here/train.py" "$1" --launcher pytorch "${@:3}"
