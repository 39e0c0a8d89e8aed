#!/usr/bin/env bash
# Reverse reward engineering on the toy language: PPO on four sets of features, and how far each goes along with the true reward. Two
# processes share the sweep; a repeated call finishes what is missing. Needs the extra `rer`, the encoder.
set -euo pipefail
. "$(dirname "$0")/share.sh"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
to=outputs/demo_rer

rhtool task=sft model=tiny data=toy data.sft.passes=6 dir="$to/base"  # as little as will do
share 2 "$to/logs" rhtool experiment=toy_rer outputs="$to" -m
rhtool task=rer_eval task.path="$to/toy_rer" dir="$to/monotonicity"
rhtool task=report outputs="$to"
