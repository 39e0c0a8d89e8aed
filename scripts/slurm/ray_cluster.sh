#!/usr/bin/env bash
# A Ray over the nodes of a SLURM job, one `ray start` on each, and rhtool with it:
#   sbatch --nodes=4 --ntasks-per-node=1 --cpus-per-task=32 --requeue scripts/slurm/ray_cluster.sh task=orpo env=traffic task.workers=100
# The first node has the head and the run. A preempted job that SLURM starts again goes on from the run's last checkpoint.
set -euo pipefail
head=$(hostname)
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
port=$((20000 + ${SLURM_JOB_ID:?run it by sbatch or in salloc} % 20000))
export RAY_ADDRESS=$head:$port
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')  # of this job alone
started=()
trap 'kill "${started[@]}" 2>/dev/null; wait' EXIT
trap 'kill -TERM "$run" 2>/dev/null' TERM USR2 INT

ray start --head --port="$port" --include-dashboard=false --disable-usage-stats --num-cpus="$cpus" --block &
started+=($!)
if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
  until (exec 3<>"/dev/tcp/$head/$port") 2>/dev/null; do sleep 0.5; done
  others=$((SLURM_JOB_NUM_NODES - 1))
  srun --overlap --nodes=$others --ntasks=$others --exclude="$SLURMD_NODENAME" --cpus-per-task="$cpus" \
    ray start --address="$RAY_ADDRESS" --num-cpus="$cpus" --block &
  started+=($!)
fi
until python - <<'P'
import os, ray
ray.init(os.environ["RAY_ADDRESS"], logging_level="ERROR", log_to_driver=False)
raise SystemExit(sum(node["Alive"] for node in ray.nodes()) < int(os.environ.get("SLURM_JOB_NUM_NODES", 1)))
P
do sleep 1; done
rhtool "$@" ray.address="$RAY_ADDRESS" &
run=$!
code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do wait "$run" || code=$?; done  # a signal ends `wait`, and is passed on to the run
exit "$code"
