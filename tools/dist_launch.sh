# Sourced by dist_train.sh and dist_test.sh.

# launch PROCESSES TOOL ARGUMENTS: that tool in so many processes on this machine, which takes the place of the shell.
launch() {
  local processes=$1 tool=$2
  shift 2
  local nodes=${NNODES:-1} address=${MASTER_ADDR:-127.0.0.1} port=${PORT:-29500}
  # The machine of NODE_RANK 0 is where the others meet; ranks are then dealt out by c10d.
  local meet=(--rdzv_backend=c10d --rdzv_endpoint="$address:$port" --rdzv_id="${JOB_ID:-$port}")
  if [ "$nodes" != 1 ]; then
    meet+=(--rdzv_conf="is_host=$([ "${NODE_RANK:-0}" = 0 ] && echo true || echo false)")
  fi
  exec "${PYTHON:-python}" -m torch.distributed.run --nnodes="$nodes" --nproc_per_node="$processes" \
    "${meet[@]}" --max-restarts="${MAX_RESTARTS:-0}" "$tool" "$@"
}
