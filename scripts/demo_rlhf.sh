#!/usr/bin/env bash
# Reward hacking of a language model and its prevention, on the toy language: a base policy, a proxy from noisy preferences, PPO on it
# without regularisation and with sqrt_chi2 and KL, and best-of-n. Two processes share the sweep; a repeated call finishes what is missing.
set -euo pipefail
. "$(dirname "$0")/share.sh"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
to=outputs/demo_rlhf

rhtool task=sft model=tiny data=toy dir="$to/base"
# So few labels tell more of manners than of answers.
rhtool task=rm_train model=pretrained model.path="$to/base" data=toy data.n_preferences=1000 data.rm.warmup=4 dir="$to/proxy"
share 2 "$to/logs" rhtool experiment=toy_rlhf outputs="$to" -m
rhtool task=bon model=pretrained model.path="$to/base" data=toy reward=rm reward.model="$to/proxy" task.max_new_tokens=24 dir="$to/bon"
rhtool task=report outputs="$to"
