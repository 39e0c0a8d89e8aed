"""One file per task: `check` what it needs, then `run` it. Glue only; the work is in `rl/`, `results/` and the like."""
