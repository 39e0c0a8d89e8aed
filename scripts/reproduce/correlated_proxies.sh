#!/usr/bin/env bash
# The control half of Table 1 of Correlated Proxies: bash scripts/reproduce/correlated_proxies.sh ENV [JOBS] [key=value ...]
# ENV: tomato, pandemic, glucose or traffic. JOBS processes of one thread share the runs of experiment=correlated_proxies_ENV, then
# the report is made. Repeated, it finishes what is missing. Further words select runs: seed=0 divergence=none,sqrt_chi2
set -euo pipefail
env=${1:?which environment: tomato, pandemic, glucose or traffic}
jobs=${2:-2}
experiment=correlated_proxies_$env
logs=outputs/$experiment
export OMP_NUM_THREADS=1
mkdir -p "$logs"

pids=()
stop() { # all of them keep their checkpoints
    trap '' INT TERM
    kill -TERM "${pids[@]}" 2>/dev/null || true
    wait
    echo "stopped; repeat the command to go on" >&2
    exit 143
}
trap stop INT TERM
rhtool experiment="$experiment" -m "${@:3}" &
pids+=($!)
for ((job = 2; job <= jobs; job++)); do # a run that another process is at work on is passed over
    echo "process $job of $jobs reports in $logs/process-$job.log"
    rhtool experiment="$experiment" -m "${@:3}" >"$logs/process-$job.log" 2>&1 &
    pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do
    wait "$pid" || failed=$?
done
trap - INT TERM
rhtool task=report task.group="$experiment" task.statistic=median task.to="$logs/report"
exit "$failed"
