"""What feedback is: a comparison of two answers by a principle, who makes it, and the schema of the group `feedback`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rhtool.data.base import Row
from rhtool.errors import ConfigError, RhtoolError, nearest

PRINCIPLES = Path(__file__).parent / "principles"
"""the shipped principles, a text file each: wordings, a line each, that complete "the reply that is …"."""
COMPARISON = Path(__file__).parent / "comparison.jinja"
"""the question that is put to who reads"""
ROLES = {"user": "Human", "assistant": "Assistant", "system": "System"}


@dataclass(frozen=True)
class Comparison:
    """Two answers to compare, in the order in which they are shown."""

    principle: str
    """its name"""
    wording: str
    """how it is said this time"""
    row: Row
    """with the `prompt`, and the columns that programs read"""
    a: str
    b: str


Opinion = tuple[float, float]
"""log-probabilities, in nats, of "A is better" and "B is better", up to a common constant; the preference for A is the sigmoid
of their difference"""
Judge = Callable[[Iterable[Comparison]], Iterator[Opinion]]
"""opinions in the order of the comparisons, each as soon as it and those before it are there"""


@dataclass
class Feedback:
    """Who compares answers."""

    name: ClassVar[str] = "none"

    def check(self, data: Any) -> None:
        """Raise `RhtoolError` if something that it needs is missing, be it of the `rhtool.data.base.Data`; quick."""
        raise ConfigError(
            "nobody gives feedback", "feedback", "choose one: feedback=toy, local, rm, server or alpaca_eval"
        )

    def inputs(self) -> dict[str, str]:
        """`{name: path}` of the files whose content decides the opinions."""
        return {}

    def load(self, data: Any, cache: Path) -> Judge:
        """Who compares. Models are loaded here, once; `cache` is a file for what must not be asked again."""
        raise TypeError(f"{type(self).__name__} does not implement load")

    def reliability(self, data: Any, comparison: Comparison) -> float | None:
        """Probability, in [1/2, 1], with which the opinion is the likelier one, whichever answer is shown first: nobody who
        knows only the answers foretells it more often. None where that is not known."""
        return None


def wordings(principle: str, directory: str = "") -> list[str]:
    """The wordings of a principle: of `<directory>/<principle>.txt`, or of the shipped one.

    Raises `ConfigError` if there is no such principle or nothing in its file.
    """
    for place in filter(None, (directory, PRINCIPLES)):
        file = Path(place, f"{principle}.txt")
        if file.is_file():
            if found := [line for line in map(str.strip, file.read_text().splitlines()) if line]:
                return found
            raise ConfigError("the principle has no wording", str(file), "write one, a line each")
    raise ConfigError(f"there is no principle '{principle}'", "principles", nearest(principle, known(directory)))


def known(directory: str = "") -> list[str]:
    """Names of all principles, the shipped ones and those of `directory`."""
    return sorted({file.stem for place in filter(None, (directory, PRINCIPLES)) for file in Path(place).glob("*.txt")})


def conversation(row: Row) -> str:
    """The prompt of a row as a reader sees it, a message after the other."""
    return "\n\n".join(f"{ROLES[message['role']]}: {message['content'].strip()}" for message in row["prompt"])


def question(comparison: Comparison, template: str = "") -> str:
    """The text that is put to a reader: `COMPARISON`, or the Jinja file `template`, with `conversation`, `principle`, `a`, `b`.

    Raises `RhtoolError` if the file cannot be read or does not render.
    """
    from jinja2 import TemplateError

    path = template or str(COMPARISON)
    parts = {"principle": comparison.wording, "a": comparison.a, "b": comparison.b}
    try:
        return _template(path).render(conversation=conversation(comparison.row), **parts)
    except TemplateError as error:
        mend = "it has conversation, principle, a and b: see rhtool/feedback/comparison.jinja"
        raise RhtoolError(f"the template does not render: {error}", path, mend) from error


def check_template(template: str) -> None:
    """Raise `RhtoolError` if `template` cannot make a question."""
    question(Comparison("detail", "the better", {"prompt": [{"role": "user", "content": "?"}]}, "1", "2"), template)


_templates: dict[str, Any] = {}


def _template(path: str) -> Any:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if path not in _templates:
        try:
            text = Path(path).read_text()
            _templates[path] = ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(text)
        except (OSError, TemplateError) as error:
            raise RhtoolError(
                f"the template cannot be read: {error}", path, "see rhtool/feedback/comparison.jinja"
            ) from error
    return _templates[path]
