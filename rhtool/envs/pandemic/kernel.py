"""A day in each lane, compiled: 24 hours of people moving and meeting, and midnight."""

from __future__ import annotations

from numba import njit

from rhtool.envs.pandemic.contacts import classify, meet
from rhtool.envs.pandemic.disease import midnight
from rhtool.envs.pandemic.move import PARTY_HOURS, act, opening, routines_of_the_hour
from rhtool.envs.pandemic.tables import ASSIGNED, INSIDE, S_CRITICAL, S_DEAD, S_INFECTED
from rhtool.envs.rng import integers

CAUSE = 0.005
"""share of persons ill or dead below which raising the stage is without cause"""
SNAPSHOTS = 3
"""snapshots a day, after hours 8, 16, 24"""
FEATURES = 13
"""numbers of a snapshot"""


@njit(cache=True, nogil=True, error_model="numpy")
def begin(mask, delta_start, plan, plans, rng, world):
    """Send everybody home in the lanes of `mask`, and draw when delta starts and, if `plan` is -1, the controller's."""
    for i in range(len(mask)):
        if mask[i]:
            for p in range(world.home.shape[1]):
                world.place[i, p] = world.home[i, p]
                world.present[i, ASSIGNED, world.home[i, p]] += 1
            world.delta_start[i] = delta_start[0] + integers(rng[i], delta_start[1] - delta_start[0] + 1)
            world.strategy[i] = integers(rng[i], plans) if plan < 0 else plan


@njit(**INSIDE)
def regulate(tables, compounding, world, i, action):
    """Impose the stage that follows from the action, as every day: locks and contacts are looked up, transmission changes
    here. Returns the old stage."""
    old = world.stage[i]
    stage = min(max(old + action - 1, 0), len(tables.avoided) - 1)
    world.stage[i] = stage
    for strain in range(2):
        protection, c = tables.protection[stage], tables.compliance
        if compounding:
            world.multiplier[i, strain] = 1.0 - (1.0 - world.multiplier[i, strain] * protection) * c
        else:
            world.multiplier[i, strain] = tables.multiplier[strain] * (1.0 - (1.0 - protection) * c)
    return old


@njit(**INSIDE)
def snapshot(world, i, hour, threshold, row):
    """Write the present observation after `hour` hours of the day into `row`, float32 (13,)."""
    hours, n = world.day[i] * 24 + hour, world.who.shape[1]
    row[0] = hours % 8760 / 8760.0
    row[1] = world.stage[i]
    row[2] = world.books[i, 0, S_INFECTED] >= threshold
    for x in range(5):
        row[3 + x] = world.books[i, 1, x] / n
        row[8 + x] = world.books[i, 2, x] / n


@njit(cache=True, nogil=True, error_model="numpy")
def step(actions, mask, tables, quirks, ends, rng, world, memory, homes):
    """A day in the lanes of `mask`; `ends` int64 (10, …): days on which the controller's entries end; `homes`: first
    home and number of homes."""
    n, hosting = world.who.shape[1], memory.hosting
    for i in range(len(mask)):
        if not mask[i]:
            continue
        s, day = rng[i], world.day[i]
        weekday = day % 7
        before = world.counts[i, 0]
        rate = (before[S_INFECTED] + before[S_CRITICAL] + before[S_DEAD]) / n
        old = regulate(tables, quirks.compounding_multipliers, world, i, actions[i])
        stage = world.stage[i]
        for p in range(n):
            memory.duty[p] = world.work_hours[i, p] if (world.work_days[i, p] >> weekday) & 1 else 0
            work = world.work[i, p]
            barred = work >= 0 and tables.locked[stage, tables.type_of[work]]
            memory.target[p] = world.home[i, p] if barred else work
        given = homes[1]
        if not quirks.social_events_always:
            given = 0
            for home in range(homes[1]):
                today = False
                for k in range(world.parties.shape[2]):
                    today = today or world.parties[i, home, k] == day % 365
                if today:
                    hosting[given] = home
                    given += 1
        classify(world.course[i], world.caught[i], memory)
        for row in range(world.history.shape[1] - SNAPSHOTS):
            for x in range(FEATURES):
                world.history[i, row, x] = world.history[i, row + SNAPSHOTS, x]
        for hour in range(24):
            party = quirks.social_events_always or PARTY_HOURS[0] <= hour <= PARTY_HOURS[1]
            now = hosting[: given if party else 0]
            opening(tables, stage, hour, weekday, memory.opened)
            routines_of_the_hour(tables, hour, weekday, memory.opened, len(now), memory.may, memory.reachable)
            act(s, tables, quirks, world, i, hour, memory, now)
            meet(s, tables, quirks.alpha_hides_delta, world, i, memory)
            if hour == 0:
                midnight(s, tables, quirks, world, i)
                classify(world.course[i], world.caught[i], memory)
            if hour % 8 == 7:
                at = world.history.shape[1] - SNAPSHOTS + hour // 8
                snapshot(world, i, hour + 1, tables.threshold, world.history[i, at])
        rewards(tables, quirks.lower_stage_by_action, world, i, old, actions[i], rate)
        entry = world.entry[i]
        if quirks.schedule_persists and day >= 1 and ends[world.strategy[i], entry] <= day:
            world.entry[i] += 1
        world.day[i] = day + 1


@njit(**INSIDE)
def rewards(tables, by_action, world, i, old, action, rate):
    """Write the unweighted components of lane `i`; `rate`: share of persons ill or dead on the day before."""
    stage, out = world.stage[i], world.components[i]
    lacking = min(rate - CAUSE, 0.0) / CAUSE
    out[0] = -world.counts[i, 0, S_CRITICAL] / world.who.shape[1]
    out[1] = -lacking * lacking if stage > old else 0.0
    out[2] = -tables.severity[action if by_action else stage]
    out[3] = -abs(stage - old)
