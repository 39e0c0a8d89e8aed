#!/usr/bin/env bash
# Reward hacking and its prevention on the tomato board: no regularisation, KL and sqrt_chi2, each coefficient with three seeds.
# Two processes share the work; a repeated call finishes what is missing. Then the table and the pictures.
set -euo pipefail
export OMP_NUM_THREADS=1
common=(task=orpo env=tomato scale=small outputs=outputs/demo seed=0,1,2 -m)
mkdir -p outputs/demo

echo "27 runs; those of sqrt_chi2 report in outputs/demo/sqrt_chi2.log"
rhtool divergence=sqrt_chi2 coeff=0.02,0.1,0.5,2 "${common[@]}" >outputs/demo/sqrt_chi2.log 2>&1 &
other=$!
trap 'kill -TERM "$other" 2>/dev/null || true' EXIT
rhtool divergence=none "${common[@]}"
rhtool divergence=kl coeff=0.05,0.1,0.2,1 "${common[@]}"
wait "$other" || { tail -n 20 outputs/demo/sqrt_chi2.log; exit 1; }
rhtool task=report outputs=outputs/demo
