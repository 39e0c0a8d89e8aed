"""Errors that say what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RhtoolError(Exception):
    """An error a user can mend. `str()` of it is three lines: what, where, how to mend it."""

    def __init__(self, what: str, where: str = "", mend: str = ""):
        self.what, self.where, self.mend = what, where, mend
        lines = [what, f"  where: {where}" if where else "", f"  mend:  {mend}" if mend else ""]
        super().__init__("\n".join(line for line in lines if line))

    def __reduce__(self) -> tuple:
        return _again, (type(self), self.what, self.where, self.mend)


class ConfigError(RhtoolError):
    """A value in the configuration that cannot be used."""


class MissingExtra(RhtoolError):
    """A package of an optional extra is not installed."""

    def __init__(self, extra: str, package: str):
        super().__init__(
            f"the package '{package}' is not installed", f"extra '{extra}'", f"pip install 'rhtool[{extra}]'"
        )


def _again(cls: type[RhtoolError], what: str, where: str, mend: str) -> RhtoolError:
    """The error as it was, on the other side of a process's border."""
    error = cls.__new__(cls)
    RhtoolError.__init__(error, what, where, mend)
    return error


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name closest to `name`, else the list of them all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}"
