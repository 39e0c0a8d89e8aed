#!/usr/bin/env bash
# MORLAIF on the toy language: a base policy, feedback by three principles, a preference model of each, the weights that explain what
# people want (who like a little flattery), and PPO under seven scalarisers beside the single-objective baseline, whose model learned
# from all principles at once. A judge compares their answers. Two processes share the work; a repeated call finishes what is missing.
set -euo pipefail
. "$(dirname "$0")/share.sh"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
to=outputs/demo_morlaif
mkdir -p "$to"
people='data=toy data.weights=[1,0.5,-0.4]'
models="model=pretrained model.path=$to/base feedback=toy $people data.rm.passes=3 data.n_validation=1500 task.fit.margin=false"

rhtool task=sft model=tiny data=toy data.sft.passes=6 dir="$to/base"  # as little as will do
echo "the baseline's models: $to/constitution.log"
rhtool task=morlaif_pm $models task.one_each=true dir="$to/constitution" >"$to/constitution.log" 2>&1 &
other=$!
trap 'kill -TERM "$other" 2>/dev/null || true' EXIT
rhtool task=morlaif_pm $models dir="$to/principles"
wait "$other" || { tail -n 20 "$to/constitution.log"; exit 1; }
share 2 "$to/logs" rhtool experiment=toy_morlaif outputs="$to" -m
rhtool task=rer_eval task.path="$to/toy_morlaif" $people feedback=toy task.against="$to/toy_morlaif/pretrained/toy/rm" dir="$to/judged"
rhtool task=report outputs="$to"
