#!/usr/bin/env bash
# Makes the base policies that ship with the package, from nothing; run it in a checkout, and look at what changed before committing it.
set -euo pipefail
export OMP_NUM_THREADS=1
envs="$(cd "$(dirname "$0")/.." && pwd)/rhtool/envs"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# tomato: PPO on the true reward, a tenth of the actions random, stopped after three iterations (the original's checkpoint 3).
rhtool task=orpo env=tomato divergence=none env.reward_fun=true env.randomness_eps=0.1 \
    task.iterations=3 task.base_share=0 "task.hidden=[64,64]" dir="$work/tomato"
cp "$work/tomato/policy/"* "$envs/tomato/base_policy/"

# gym, the boat race: PPO on the true reward, stopped after five iterations, when it makes half of the progress it could.
rhtool task=orpo env=gym divergence=none env.reward_fun=true task.iterations=5 task.base_share=0 dir="$work/gym"
cp "$work/gym/policy/"* "$envs/gym/base_policy/"
