#!/usr/bin/env bash
# MORLAIF on the toy language: a base policy, feedback by three principles, a preference model of each, the weights that explain what
# people prefer, and PPO under seven scalarisers beside the single-objective baseline. Two processes share the sweep; a repeated call
# finishes what is missing.
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
to=outputs/demo_morlaif
mkdir -p "$to"
people='data.weights=[1,0.5,-0.4] data.rm.passes=3 data.n_validation=1500 task.fit.margin=false'

rhtool task=sft model=tiny data=toy dir="$to/base"
rhtool task=morlaif_pm model=pretrained model.path="$to/base" data=toy feedback=toy $people dir="$to/principles"
rhtool task=morlaif_pm model=pretrained model.path="$to/base" data=toy feedback=toy $people task.one_each=true dir="$to/constitution"
echo "8 runs, shared with a second process, which reports in $to/second.log"
rhtool experiment=toy_morlaif outputs="$to" -m >"$to/second.log" 2>&1 &
other=$!
trap 'kill -TERM "$other" 2>/dev/null || true' EXIT
rhtool experiment=toy_morlaif outputs="$to" -m
wait "$other" || { tail -n 20 "$to/second.log"; exit 1; }
rhtool task=report outputs="$to"
