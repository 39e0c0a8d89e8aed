#!/usr/bin/env bash
# Five rewards learned from the same labels of the toy language: a reward model, the worst of three, the mean of their weights (WARM), a bounded
# shaping (PAR), and one without what length explains (ODIN). Two processes share the sweep; a repeated call finishes what is missing.
set -euo pipefail
. "$(dirname "$0")/share.sh"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
to=outputs/toy_rewards

rhtool task=sft model=tiny data=toy data.sft.passes=6 dir="$to/base"  # as little as will do
for seed in 0 1 2; do
  rhtool task=rm_train model=pretrained model.path="$to/base" data=toy seed=$seed dir="$to/rm_$seed"
done
rhtool task=rm_train model=pretrained model.path="$to/base" data=toy task.length_weight=1 dir="$to/odin"
share 2 "$to/logs" rhtool experiment=toy_rewards outputs="$to" -m
rhtool task=rer_eval task.path="$to/toy_rewards" dir="$to/monotonicity"
rhtool task=report outputs="$to"
