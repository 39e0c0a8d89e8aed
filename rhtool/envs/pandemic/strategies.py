"""The ten plans of the hand-written controller: which stage until which day, and the action that follows a plan.

`safe_policies` of the pandemic simulator's fork; Kompella et al. 2020 (arXiv 2010.10560), section 5.
"""

from __future__ import annotations

import numpy as np

FOR_EVER = 2**31 - 1

PLANS: dict[str, list[tuple[int, int]]] = {
    "S0": [(0, FOR_EVER)],
    "S1": [(1, FOR_EVER)],
    "S2": [(2, FOR_EVER)],
    "S3": [(3, FOR_EVER)],
    "S4": [(4, FOR_EVER)],
    "S0-4-0": [(4, 30), (0, FOR_EVER)],
    "S0-4-0-FI": [(4, 30), (3, 35), (2, 40), (1, 45), (0, FOR_EVER)],
    "S0-4-0-GI": [(4, 30), (3, 50), (2, 70), (1, 90), (0, FOR_EVER)],
    "swedish": [(0, 3), (1, FOR_EVER)],
    "italian": [(0, 3), (1, 8), (2, 13), (3, 25), (4, 59), (3, 79), (2, FOR_EVER)],
}
"""`{name: [(stage, first day on which it holds no more), …]}`"""
MIXTURE = "mixture"

LENGTH = max(map(len, PLANS.values()))
STAGES = np.zeros((len(PLANS), LENGTH), np.int64)
"""int64 (10, LENGTH): stage of each entry; after a plan's end that of its last one, since with the quirk
`schedule_persists` the next episode's plan may be shorter than the entry carried over to it"""
ENDS = np.full((len(PLANS), LENGTH), FOR_EVER, np.int64)
"""int64 (10, LENGTH): day on which it ends"""
for _i, _plan in enumerate(PLANS.values()):
    for _j, (STAGES[_i, _j], ENDS[_i, _j]) in enumerate(_plan):
        STAGES[_i, _j:] = _plan[_j][0]


def planned(strategy: np.ndarray, entry: np.ndarray, day: np.ndarray, persists: bool) -> np.ndarray:
    """int64 (B,): the stage that the plans name on `day`: with the quirk `schedule_persists` that of the entry in force,
    else that of the first entry that has not ended."""
    at = entry if persists else (ENDS[strategy] <= day[:, None]).sum(1)
    return STAGES[strategy, at]


def action(planned: np.ndarray, stage: np.ndarray, inverted: bool) -> np.ndarray:
    """int64 (B,): 0 lower, 1 keep, 2 raise: towards the planned stage, or away from it."""
    return 1 + np.sign(stage - planned if inverted else planned - stage)
