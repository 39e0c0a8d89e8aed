#!/usr/bin/env bash
# What a hacked reward of texts pays for, on the toy language: a base policy, a proxy from noisy preferences, a short PPO run that hacks it,
# then three reports that say what it pays for, without being told. Minutes; a repeated call finishes what is missing.
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
to=${1:-outputs/demo_interpret/texts}
mkdir -p "$to"

rhtool task=sft model=tiny data=toy data.n_demonstrations=4000 task.passes=2 task.minibatch=32 dir="$to/base"
rhtool task=rm_train model=pretrained model.path="$to/base" data=toy dir="$to/proxy"
rhtool task=rlhf_ppo model=pretrained model.path="$to/base" data=toy reward=rm reward.model="$to/proxy" divergence=none task.iterations=8 \
  task.rollouts=128 task.minibatch=64 task.epochs=2 task.lr=5e-4 task.max_prompt=64 task.max_new_tokens=24 task.eval_every=2 \
  task.eval_prompts=200 dir="$to/policy"
rhtool task=interpret method=text_gap data=toy task.answers="$to/policy" dir="$to/gap"
rhtool task=interpret method=counterfactual data=toy task.answers="$to/policy" reward=rm reward.model="$to/proxy" dir="$to/counterfactual"
rhtool task=interpret method=tokens data=toy task.answers="$to/policy" reward=rm reward.model="$to/proxy" dir="$to/tokens"
