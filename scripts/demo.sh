#!/usr/bin/env bash
# Reward hacking and its prevention on the tomato board: no regularisation, KL and sqrt_chi2, each coefficient with three seeds.
# Two processes share the work; a repeated call finishes what is missing. Then the table and the pictures.
set -euo pipefail
. "$(dirname "$0")/share.sh"
export OMP_NUM_THREADS=1
to=outputs/demo

for method in "divergence=none" "divergence=kl coeff=0.05,0.1,0.2,1" "divergence=sqrt_chi2 coeff=0.02,0.1,0.5,2"; do
    # shellcheck disable=SC2086
    share 2 "$to/logs" rhtool task=orpo env=tomato scale=small outputs="$to" $method seed=0,1,2 -m
done
rhtool task=report outputs="$to"
