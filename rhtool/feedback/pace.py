"""Limits of rate, kept without bursts: in any window of time no more goes out than the rate allows, and one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pace:
    """So much per minute, evenly.

    Args:
        per_minute: None for no limit.
        clock: seconds.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic):
        self.per_minute, self._clock = per_minute, clock
        self._next = 0.0

    def reserve(self, amount: float = 1.0) -> float:
        """Seconds to wait before `amount` may go out; it counts from now on."""
        if self.per_minute is None:
            return 0.0
        now = self._clock()
        at = max(now, self._next)
        self._next = at + 60.0 * amount / self.per_minute
        return at - now

    def pause(self, seconds: float) -> None:
        """Let nothing out for so long."""
        self._next = max(self._next, self._clock() + seconds)

    async def wait(self, amount: float = 1.0) -> None:
        """Until `amount` may go out."""
        await asyncio.sleep(self.reserve(amount))
