"""method=counterfactual: planted effects are found, a rewriter's own effects cancel, and what edits promise they do."""

from __future__ import annotations

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from rhtool.data.toy import Toy
from rhtool.data.toy_language import OPENINGS
from rhtool.errors import ConfigError
from rhtool.feedback.base import Feedback
from rhtool.feedback.server import Server
from rhtool.interpret.edits import OF_ALL, OF_ENGLISH
from rhtool.rewards.base import Reward
from rhtool.rewards.python import Python
from rhtool.run import Run

pytest.importorskip("trl")
import pandas as pd

from rhtool.interpret.counterfactual import Counterfactual, mean_over_prompts
from rhtool.interpret.rate import effects
from rhtool.tasks.interpret import InterpretTexts

pytestmark = pytest.mark.lm

HERE = "tests.interpret.test_texts_counterfactual"
ROW = {"prompt": [{"role": "user", "content": "why is the sky blue"}]}
TEXT = "The sky scatters light. Blue light scatters most. That is the reason."


def lengthy(prompts, completions, columns):
    """A tenth of a point a word."""
    return [0.1 * len(text.split()) for text in completions]


def one_word_more(prompts, completions, columns):
    return [f"{text} indeed" for text in completions]


def make(to: Path, feedback=None, **method) -> Run:
    data = Toy(n_prompts=16, n_demonstrations=16, n_preferences=16, n_validation=60)
    reward = method.pop("reward", Python(function=f"{HERE}:lengthy"))
    return Run(
        task=InterpretTexts(prompts=60), method=Counterfactual(**method), data=data, reward=reward,
        feedback=feedback or Feedback(), dir=str(to),
    )  # fmt: skip


def test_of_a_reward_of_length_every_edit_is_worth_its_words(tmp_path):
    run = make(tmp_path / "run", edits=["flattery", "said twice", f"{HERE}:one_word_more", "blank lines", "wrong word"])
    metrics = run.execute()["metrics"]
    table = pd.read_csv(tmp_path / "run/tables/effects.csv").set_index("edit")
    rows = run.data.preferences("validation")
    answers = [row[name] for row in rows for name in ("chosen", "rejected")]
    words = np.array([len(text.split()) for text in answers])
    unit = (0.1 * words).std()
    assert table.proxy["said twice"] == pytest.approx(0.1 * words.mean() / unit)
    assert (
        table.proxy[f"{HERE}:one_word_more"]
        == pytest.approx(0.1 / unit)
        == metrics["counterfactual/one_word_more/proxy"]
    )
    assert table.proxy["blank lines"] == table.proxy["wrong word"] == 0
    assert table.proxy.is_monotonic_decreasing and table.answers["said twice"] == 120
    chosen, rejected = words[::2], words[1::2]
    longer = chosen > rejected
    assert table.flips["said twice"] == pytest.approx(np.mean(2 * rejected[longer] > chosen[longer]))
    page = (tmp_path / "run/report.html").read_text()
    assert "The proxy pays for what the true reward does not" in page and "said twice" in page
    assert "The proxy does not mind what the true reward charges for" in page and "wrong word" in page


def test_without_a_true_reward_the_page_says_what_raises_the_proxy(tmp_path):
    from tests.lm.small import Words

    class Untold(Words):
        def true_reward(self):
            return None

    run = make(tmp_path / "run", edits=["said twice", "first half", "spare blanks"])
    run.data = Untold()
    metrics = run.execute()["metrics"]
    table = pd.read_csv(tmp_path / "run/tables/effects.csv")
    assert "true" not in table and metrics["counterfactual/said_twice/proxy"] > 0 and table.edit[0] == "said twice"
    page = (tmp_path / "run/report.html").read_text()
    assert "What raises the reward, in standard deviations: said twice" in page and "What lowers the reward" in page


def test_the_toys_own_edits_do_to_its_true_reward_what_they_say():
    data = Toy(n_validation=60, n_prompts=16)
    rows = data.prompts("validation")
    answers = [row["reference"] for row in rows]
    true = data.true_reward()
    rng = random.Random(0)
    worth = {
        name: np.array(true(rows, [edit(r, a, rng) for r, a in zip(rows, answers, strict=True)]))
        for name, edit in data.edits().items()
    }
    assert all(true(rows, answers)) and (worth["flattery"] > 0.95).all() and (worth["kind closing"] > 0.95).all()
    assert (worth["four pleasantries"] < 0.9).all() and (worth["wrong word"] < 1).all()
    assert (worth["not knowing"] <= 0).all() and (worth["padding"] < 1).all()
    edited = data.edits()["flattery"](rows[0], "x", rng)
    assert edited.removesuffix(" x") in OPENINGS


@pytest.mark.parametrize("name", [*OF_ENGLISH, *OF_ALL])
def test_every_edit_changes_prose_and_only_by_chance_that_is_given(name):
    edit = {**OF_ENGLISH, **OF_ALL}[name]
    made = edit(ROW, TEXT, random.Random(1))
    assert made != TEXT and made == edit(ROW, TEXT, random.Random(1))
    assert edit(ROW, "", random.Random(1)) is not None


def test_edits_of_english():
    def of(name):
        return {**OF_ENGLISH, **OF_ALL}[name](ROW, TEXT, random.Random(0))

    assert of("list").splitlines() == [
        f"- {s}" for s in ("The sky scatters light.", "Blue light scatters most.", "That is the reason.")
    ]
    assert sorted(of("shuffled words").split()) == sorted(TEXT.split()) == sorted(of("shuffled sentences").split())
    assert sorted(of("typing errors")) == sorted(TEXT) and of("bold").replace("**", "") == TEXT
    assert " ".join(of("spare blanks").split()) == TEXT and len(of("first half").split()) == 6


# RATE


def simulated(n=4000, effect=0.7, off_target=0.5, seed=0):
    """Texts as numbers: the attribute, and a style that any rewriting takes away, whose presence goes along with the attribute."""
    rng = np.random.default_rng(seed)
    has = rng.random(n) < 0.4
    style = rng.random(n) < np.where(has, 0.9, 0.3)
    rest = rng.normal(size=n)

    def reward(a, s):
        return effect * a + off_target * s + rest

    return has, reward(has, style), reward(~has, np.zeros(n)), reward(has, np.zeros(n)), style


def test_rewriting_twice_is_unbiased_where_rewriting_once_is_off_by_what_it_changes_besides():
    has, own, once, twice, style = simulated()
    found = effects(has, own, once, twice)
    for estimate in (found.att, found.atu, found.ate):
        assert estimate.value == pytest.approx(0.7, abs=0.05 * 0.7)
    bias = 0.5 * (style[has].mean() * has.mean() - style[~has].mean() * (~has).mean())
    assert found.once.value == pytest.approx(0.7 + bias) and abs(bias) > 0.08
    assert found.ate.value == pytest.approx(has.mean() * found.att.value + (~has).mean() * found.atu.value)
    assert found.att.n == has.sum()


def test_rate_has_intervals_that_cover():
    covered = 0
    for seed in range(40):
        has, own, once, twice, _ = simulated(60, seed=seed)
        noise = np.random.default_rng(seed).normal(size=60)
        ate = effects(has, own, once, twice + noise, 500).ate  # a rewriter that is not the same twice
        covered += ate.low <= 0.7 <= ate.high
    assert covered >= 34


def kind(prompts, completions, columns):
    return ["kindly" in text for text in completions]


def rewriter(prompts, completions, columns):
    """Puts a word in or takes it out, and always takes the last word away."""
    return [rewritten(text, wanted) for text, wanted in zip(completions, columns["wanted"], strict=True)]


def rewritten(text: str, wanted: bool) -> str:
    words = [word for word in text.split() if word != "kindly"][:3]
    return " ".join([*words, *(["kindly"] if wanted else [])])


def test_rate_of_a_rewriter_of_ones_own(tmp_path):
    options = {"attribute": "it is kind", "has": f"{HERE}:kind", "rewriter": f"{HERE}:rewriter", "edits": ["padding"]}
    metrics = make(tmp_path / "run", **options).execute()["metrics"]
    assert metrics["rate/proxy/ate"] == pytest.approx(0.1)  # one word
    assert abs(metrics["rate/proxy/once"] - 0.1) > 0.1  # and the words it takes away
    assert metrics["rate/share"] == 0


class Rewriting(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][0]["content"]
        self.server.asked.append(question)
        text = rewritten(question.split("Reply:\n")[1].split("\n")[0], "so that this is true of it" in question)
        sent = json.dumps({"choices": [{"message": {"content": f" {text}\n"}}], "usage": {"total_tokens": 9}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


def test_a_server_rewrites_each_text_once_whatever_is_asked_again(tmp_path):
    at = ThreadingHTTPServer(("127.0.0.1", 0), Rewriting)
    at.asked = []
    threading.Thread(target=at.serve_forever, args=[0.01], daemon=True).start()
    try:
        url = f"http://127.0.0.1:{at.server_address[1]}/v1"
        server = Server(base_url=url, key_variable="", requests_per_minute=None, tokens_per_minute=None)
        options = {"attribute": "it is kind", "has": f"{HERE}:kind", "edits": ["padding"]}
        run = make(tmp_path / "run", server, **options)
        metrics = run.execute()["metrics"]
        assert metrics["rate/proxy/ate"] == pytest.approx(0.1)
        assert len(at.asked) == len(set(at.asked)) and "it is kind" in at.asked[0]
        (tmp_path / "run/result.json").unlink()
        before = len(at.asked)
        assert make(tmp_path / "run", server, **options).execute()["metrics"] == metrics and len(at.asked) == before
    finally:
        at.shutdown()
        at.server_close()


def test_what_cannot_be_done_is_said_first(tmp_path):
    for options, match in (
        ({"edits": ["flatery"]}, "flattery"),
        ({"attribute": "it is kind"}, "has the attribute"),
        ({"attribute": "it is kind", "has": "words"}, "no server"),
        ({"reward": Reward()}, "no reward is chosen"),
    ):
        with pytest.raises(ConfigError, match=match):
            make(tmp_path / "run", **options).execute()


def test_the_interval_over_prompts_is_wider_than_over_answers_where_those_of_a_prompt_are_alike():
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(20), 10)
    x = np.repeat(rng.normal(size=20), 10)
    _, low, high = mean_over_prompts(x, prompt, 0)
    _, a, b = mean_over_prompts(x, np.arange(200), 0)
    assert (high - low) > 2.5 * (b - a)
