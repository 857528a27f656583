#!/usr/bin/env bash
# The tool test in several processes on this machine: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each. MAX_RESTARTS=N starts the job again, at most N
# times, when a process has died.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options]" >&2
  exit 2
fi
here=$(dirname "$0")
. "$here/dist_launch.sh"
launch "$3" "$here/test.py" "$1" "$2" --launcher pytorch "${@:4}"
