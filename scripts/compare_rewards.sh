#!/usr/bin/env bash
# Five rewards learned from the same labels of the toy language: a reward model, the worst of three, the mean of their weights (WARM), a bounded
# shaping (PAR), and one without what length explains (ODIN). Two processes share the sweep; a repeated call finishes what is missing.
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
to=outputs/toy_rewards
mkdir -p "$to"

rhtool task=sft model=tiny data=toy data.sft.passes=6 dir="$to/base"  # as little as will do
for seed in 0 1 2; do
  rhtool task=rm_train model=pretrained model.path="$to/base" data=toy seed=$seed dir="$to/rm_$seed"
done
rhtool task=rm_train model=pretrained model.path="$to/base" data=toy task.length_weight=1 dir="$to/odin"
echo "5 runs, shared with a second process, which reports in $to/second.log"
rhtool experiment=toy_rewards outputs="$to" -m >"$to/second.log" 2>&1 &
other=$!
trap 'kill -TERM "$other" 2>/dev/null || true' EXIT
rhtool experiment=toy_rewards outputs="$to" -m
wait "$other" || { tail -n 20 "$to/second.log"; exit 1; }
rhtool task=rer_eval task.path="$to/toy_rewards" dir="$to/monotonicity"
rhtool task=report outputs="$to"
