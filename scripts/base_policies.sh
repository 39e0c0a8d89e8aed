#!/usr/bin/env bash
# Makes the base policies that ship with the package, from nothing; run it in a checkout, and look at what changed before committing it.
# bash scripts/base_policies.sh [envs]: all unless named. Half an hour on two cores, most of it for glucose.
set -euo pipefail
export OMP_NUM_THREADS=1
envs="$(cd "$(dirname "$0")/.." && pwd)/rhtool/envs"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

for env in ${@:-tomato glucose pandemic traffic signal maze mountain_car dots gym}; do
    case $env in
        # PPO on the true reward, a tenth of the actions random, stopped after three iterations (the original's checkpoint 3).
        tomato) rhtool task=orpo env=tomato divergence=none env.reward_fun=true env.randomness_eps=0.1 \
            task.iterations=3 task.base_share=0 "task.hidden=[64,64]" dir="$work/tomato" ;;
        # PPO on the true reward, stopped after five iterations, when it makes half of the progress it could.
        gym) rhtool task=orpo env=gym divergence=none env.reward_fun=true task.iterations=5 task.base_share=0 dir="$work/gym" ;;
        # Networks of 820,000 and 200,000 weights.
        traffic|dots) rhtool task=bc env="$env" task.weights=float16 dir="$work/$env" ;;
        # Clones of the controllers; how is said in conf/env.
        *) rhtool task=bc env="$env" dir="$work/$env" ;;
    esac
    mkdir -p "$envs/$env/base_policy"
    cp "$work/$env/policy/"* "$envs/$env/base_policy/"
done
