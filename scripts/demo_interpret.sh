#!/usr/bin/env bash
# What hacked rewards pay for, without being told: the tomato board's proxy against its true reward, a proxy of glucose learned from
# preferences, and the proxy of the toy language with a policy that hacks it. A report each; a repeated call finishes what is missing.
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
to=outputs/demo_interpret
mkdir -p "$to"

control() {
    for method in gap distance preprocess; do
        rhtool task=interpret method=$method env=tomato dir="$to/tomato/$method"
    done
    rhtool task=rm_train env=glucose task.episodes=8 task.segment=48 dir="$to/glucose/proxy"
    rhtool task=interpret method=gap env=glucose task.rewards="[$to/glucose/proxy,true]" task.episodes=4 dir="$to/glucose/gap"
    rhtool task=interpret method=attribution env=glucose task.rewards="[$to/glucose/proxy]" task.episodes=4 dir="$to/glucose/attribution"
}

texts() {
    local toy="$to/toy"
    rhtool task=sft model=tiny data=toy data.n_demonstrations=4000 task.passes=2 task.minibatch=32 dir="$toy/base"
    rhtool task=rm_train model=pretrained model.path="$toy/base" data=toy dir="$toy/proxy"
    rhtool task=rlhf_ppo model=pretrained model.path="$toy/base" data=toy reward=rm reward.model="$toy/proxy" divergence=none task.iterations=8 \
        task.rollouts=128 task.minibatch=64 task.epochs=2 task.lr=5e-4 task.max_prompt=64 task.max_new_tokens=24 task.eval_every=2 \
        task.eval_prompts=200 dir="$toy/policy"
    rhtool task=interpret method=text_gap data=toy task.answers="$toy/policy" dir="$toy/gap"
    for method in counterfactual tokens; do
        rhtool task=interpret method=$method data=toy task.answers="$toy/policy" reward=rm reward.model="$toy/proxy" dir="$toy/$method"
    done
}

echo "the toy language's part reports in $to/toy.log"
texts >"$to/toy.log" 2>&1 &
other=$!
trap 'kill -TERM "$other" 2>/dev/null || true' EXIT
control
wait "$other" || { tail -n 20 "$to/toy.log"; exit 1; }
grep -h "^report:" "$to/toy.log" || true
