"""What a run does when it is told to stop: at once, or, where that would lose work, as soon as the work is saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class Stopped(SystemExit):
    """A run was told to stop by a signal. Ends the process with 128 + the signal."""

    def __init__(self, signum: int):
        self.signal = signal.Signals(signum)
        super().__init__(128 + signum)


class Signals:
    """While entered, SIGTERM, SIGINT and SIGUSR2 are obeyed (`obey`): at once, or within `kept` when `obey` is called.

    A second SIGINT always stops at once. Only in the main thread, where alone Python can handle signals; elsewhere
    nothing changes. Ignored signals stay ignored.

    Args:
        note: called with the signal before it is obeyed.
    """

    def __init__(self, note: Callable[[signal.Signals], None] = lambda signum: None):
        self.received: signal.Signals | None = None
        self._note, self._keeping, self._before = note, 0, {}

    def __enter__(self) -> Signals:
        self._install()
        return self

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Only remember signals, in `received`, until the block is left and `obey` is called."""
        self._install()  # ray.init puts a handler of its own in the place of ours
        self._keeping += 1
        try:
            yield
        finally:
            self._keeping -= 1

    def obey(self) -> None:
        """Do what the signal received would have done: call the handler before ours (submitit's requeue), or raise
        `Stopped`. Nothing without a signal."""
        if self.received is None:
            return
        signum, handler = self.received, self._before.get(self.received)
        self._note(signum)
        if not callable(handler) or handler is signal.default_int_handler:
            self._keeping += 1  # what ends the run is not interrupted again
            raise Stopped(signum)
        self.received = None
        handler(signum, None)

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum in STOPPING:
                handler = signal.getsignal(signum)
                if handler not in (signal.SIG_IGN, None, self._handle):
                    self._before.setdefault(signum, handler)
                    signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.received == signal.SIGINT:
            self.__exit__()
            raise KeyboardInterrupt
        self.received = signal.Signals(signum)
        if not self._keeping:
            self.obey()
