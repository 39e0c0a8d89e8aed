#!/usr/bin/env bash
# The control half of Table 1 of Correlated Proxies: bash scripts/reproduce/correlated_proxies.sh ENV [JOBS] [key=value ...]
# ENV: tomato, pandemic, glucose or traffic. JOBS processes of one thread share the runs of experiment=correlated_proxies_ENV, then
# the report is made. Repeated, it finishes what is missing. Further words select runs: seed=0 divergence=none,sqrt_chi2
set -euo pipefail
env=${1:?which environment: tomato, pandemic, glucose or traffic}
experiment=correlated_proxies_$env
logs=outputs/$experiment
. "$(dirname "$0")/../share.sh"
export OMP_NUM_THREADS=1

failed=0
share "${2:-2}" "$logs" rhtool experiment="$experiment" -m "${@:3}" || failed=$?
rhtool task=report task.group="$experiment" task.statistic=median task.to="$logs/report"
exit "$failed"
