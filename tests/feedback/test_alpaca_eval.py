"""`feedback=alpaca_eval`: what the package's annotators say, with a stand-in for the package, whose own ask servers for money."""

from __future__ import annotations

import importlib.util
import math

import pytest

from rhtool.config import compose
from rhtool.errors import RhtoolError
from rhtool.feedback.alpaca_eval import AlpacaEval, opinion
from rhtool.feedback.base import Comparison

STAND_IN = '''
class PairwiseAnnotator:
    """The longer answer, how surely by how much; in another order, as the package may give them."""

    def __init__(self, annotators_config, caching_path):
        assert annotators_config == "mine" and caching_path.parent.is_dir()

    def annotate_pairs(self, pairs):
        assert len(pairs) <= 2 and {"instruction", "output_1", "output_2"} == set(pairs[0])
        found = [dict(line, preference=worth(line)) for line in pairs]
        return found[::-1]


def worth(line):
    a, b = len(line["output_1"]), len(line["output_2"])
    return None if line["output_2"] == "?" else 0 if a == b else 1 + b / (a + b)
'''


def ask(a: str, b: str) -> Comparison:
    row = {"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]}
    return Comparison("helpfulness", "the more helpful", row, a, b)


@pytest.mark.skipif(importlib.util.find_spec("alpaca_eval") is not None, reason="the package is installed")
def test_without_the_package_it_is_refused_before_anything_is_asked():
    run = compose("task=rer_eval", "task.path=x", "feedback=alpaca_eval")
    with pytest.raises(RhtoolError, match="pip install alpaca_eval"):
        run.feedback.check(None)


def test_opinions_are_those_of_the_annotators_in_the_order_of_the_questions(tmp_path, monkeypatch):
    package = tmp_path / "alpaca_eval"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "annotators.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    feedback = AlpacaEval(annotators="mine", at_once=2)
    feedback.check(None)
    judge = feedback.load(None, tmp_path / "answers" / "cache.sqlite")
    found = [math.exp(b) for _, b in judge([ask("a", "bbb"), ask("aaa", "b"), ask("a", "b"), ask("", "b")])]
    assert found == pytest.approx([0.75, 0.25, 0.5, 1.0])
    with pytest.raises(RhtoolError, match="left a comparison open"):
        [*judge([ask("a", "?")])]


@pytest.mark.parametrize(("preference", "second"), [(1, 0.0), (2, 1.0), (1.5, 0.5), (0, 0.5), (1.2, 0.2)])
def test_a_preference_is_a_probability_of_the_second_answer(preference, second, tmp_path):
    a, b = opinion(preference, tmp_path)
    assert math.exp(b) == pytest.approx(second, abs=1e-8) and math.exp(a) + math.exp(b) == pytest.approx(1)
