#!/usr/bin/env bash
# Reverse reward engineering on the toy language: PPO on four sets of features, and how far each goes along with the true reward. Two
# processes share the sweep; a repeated call finishes what is missing. Needs the extra `rer`, the encoder.
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
to=outputs/demo_rer
mkdir -p "$to"

rhtool task=sft model=tiny data=toy data.sft.passes=6 dir="$to/base"  # as little as will do
echo "4 runs, shared with a second process, which reports in $to/second.log"
rhtool experiment=toy_rer outputs="$to" -m >"$to/second.log" 2>&1 &
other=$!
trap 'kill -TERM "$other" 2>/dev/null || true' EXIT
rhtool experiment=toy_rer outputs="$to" -m
wait "$other" || { tail -n 20 "$to/second.log"; exit 1; }
rhtool task=rer_eval task.path="$to/toy_rer" dir="$to/monotonicity"
rhtool task=report outputs="$to"
