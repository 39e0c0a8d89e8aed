"""`feedback=local`: a language model of the hub or a directory, by the probabilities of its next token."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.base import Comparison, Feedback, Judge, Opinion, check_template, question
from rhtool.models import Trained
from rhtool.schema import choice, incidental


@dataclass
class Local(Feedback):
    """A language model in this process: which letter it would say next, A or B."""

    name: ClassVar[str] = "local"

    path: str = ""
    """hub name, directory with config.json, or run that made a model"""
    dtype: str = choice("float32", "bfloat16", "float16")
    """of the weights"""
    chat_template: str = ""
    """how the question becomes text, as model.template; empty: the tokenizer's own"""
    max_length: int = 2048
    """tokens of a question; a longer one is refused"""
    batch: int = incidental(16)
    """questions of a forward pass"""
    template: str = ""
    """Jinja file of the question; empty: rhtool/feedback/comparison.jinja"""

    def check(self, data: Any) -> None:
        """Is a model named and, if it is no name on the hub, there? Does the template make a question?"""
        mend = "give a hub name, a directory with config.json, or a run that made a model"
        if not self.path:
            raise ConfigError("no model is named", "feedback.path", mend)
        if not Trained(self.path).whole:
            raise RhtoolError(f"there is no model at {self.path}", "feedback.path", mend)
        check_template(self.template)

    def inputs(self) -> dict[str, str]:
        """The model's directory, and a template of your own."""
        found = {"feedback_model": Trained(self.path).source if self.path else "", "template": self.template}
        return {name: path for name, path in found.items() if path and Path(path).exists()}

    def load(self, data: Any, cache: Path) -> Judge:
        """The model, on the GPU if there is one."""
        from rhtool.lm.letters import Letters

        letters = Letters(Trained(self.path).source, self.dtype, self.chat_template, self.max_length)

        def judge(comparisons: Iterable[Comparison]) -> Iterator[Opinion]:
            rest = iter(comparisons)
            while part := tuple(itertools.islice(rest, self.batch)):
                yield from letters([question(one, self.template) for one in part])

        return judge
