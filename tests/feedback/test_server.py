"""The client of `feedback=server` against a real HTTP server that misbehaves."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
from misbehaving import FAILURES, Misbehaving, opinion

from rhtool.errors import ConfigError, RhtoolError
from rhtool.feedback.base import Comparison, question
from rhtool.feedback.cache import Cache
from rhtool.feedback.server import Server

pytest.importorskip("httpx")
KEY = "sk-very-secret-0123456789"


def comparisons(n: int) -> list[Comparison]:
    row = {"prompt": [{"role": "user", "content": "why is the sky blue?"}]}
    return [Comparison("detail", "the better", row, f"first {i}", f"second {'x' * (i % 7)} {i}") for i in range(n)]


def server(at: Misbehaving, **options) -> Server:
    fast = {"requests_per_minute": None, "tokens_per_minute": None, "timeout": 0.4, "attempts": 12, "key_variable": ""}
    return Server(base_url=at.url, **fast | options)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr("rhtool.feedback.online.LONGEST_WAIT", 0.05)


def test_a_thousand_questions_are_all_answered_once_and_in_order(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    asked = comparisons(1000)
    with Misbehaving(share=0.2, key=KEY) as at:
        options = server(at, key_variable="MY_KEY")
        found = list(options.load(None, tmp_path / "cache.sqlite")(asked))
        assert all(at.failed[kind] > 10 for kind in FAILURES)
        assert len(at.answered) == 1000 and set(at.answered.values()) == {1}
        np.testing.assert_allclose(found, [opinion(question(c)) for c in asked])

        before = len(at.arrivals)
        assert list(options.load(None, tmp_path / "cache.sqlite")(asked)) == found
        assert len(at.arrivals) == before  # nothing is asked twice, in another process's lifetime either
    told = caplog.text.encode() + b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert KEY.encode() not in told and b"status 500" in told


def test_the_rate_is_kept_with_and_without_failures(tmp_path):
    for share in (0.0, 0.3):
        with Misbehaving(share, ("429", "500")) as at:
            start = time.monotonic()
            list(server(at, requests_per_minute=3000).load(None, tmp_path / f"{share}.sqlite")(comparisons(120)))
            times = np.sort(at.arrivals) - start
        assert (
            len(times) >= 120 and (times >= np.arange(len(times)) / 50).all()
        )  # the first at once, 50 a second after it


def test_the_rate_of_tokens_is_kept(tmp_path):
    with Misbehaving(0.0) as at:
        asked = comparisons(60)
        tokens = sum(len(question(c)) // 3 + 1 for c in asked)
        list(
            server(at, tokens_per_minute=60 * tokens).load(None, tmp_path / "cache.sqlite")(asked)
        )  # all of them in a second
        assert at.arrivals[-1] - at.arrivals[0] > 0.9


def test_an_interrupted_stage_goes_on_without_repeating_a_question(tmp_path):
    asked = comparisons(200)
    with Misbehaving(0.1, ("500", "disconnect")) as at:
        opinions = server(at).load(None, tmp_path / "cache.sqlite")(asked)
        first = [next(opinions) for _ in range(70)]
        opinions.close()  # as a signal does: what was sent is waited for
        assert 70 <= len(at.answered) < 200
        kept = Cache(tmp_path / "cache.sqlite")
        assert len(kept) == len(at.answered)
        found = list(server(at).load(None, tmp_path / "cache.sqlite")(asked))
        assert found[:70] == first and set(at.answered.values()) == {1} and len(at.answered) == 200


def test_the_same_question_is_put_once(tmp_path):
    with Misbehaving(0.0) as at:
        found = list(server(at).load(None, tmp_path / "cache.sqlite")(comparisons(1) * 50))
        assert len(set(found)) == 1 and len(at.arrivals) == 1


def test_what_cannot_be_answered_says_why_and_keeps_the_rest(tmp_path, monkeypatch):
    with Misbehaving(1.0, ("500",)) as at, pytest.raises(RhtoolError, match="status 500, 3 times"):
        list(server(at, attempts=3).load(None, tmp_path / "a.sqlite")(comparisons(2)))
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    with Misbehaving(0.0, key=KEY) as at, pytest.raises(RhtoolError, match="status 401") as caught:
        list(server(at, key_variable="MY_KEY").load(None, tmp_path / "b.sqlite")(comparisons(2)))
    assert "sk-wrong" not in str(caught.value) and len(at.arrivals) == 0
    with pytest.raises(RhtoolError, match="ConnectError"):
        list(server(at, attempts=2).load(None, tmp_path / "c.sqlite")(comparisons(2)))


def test_without_a_key_nothing_is_begun(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="export OPENAI_API_KEY"):
        Server().check(None)
    Server(key_variable="").check(None)
    with pytest.raises(ConfigError, match="no address"):
        Server(key_variable="", base_url="localhost:8000").check(None)


def test_batch_files_are_written_and_their_results_read(tmp_path):
    asked, cache = comparisons(5), tmp_path / "cache.sqlite"
    options = Server(mode="batch", batch_size=2, key_variable="")
    with pytest.raises(RhtoolError, match="5 comparisons"):
        list(options.load(None, cache)(asked))
    files = sorted(tmp_path.glob("requests_*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [len(file.read_text().splitlines()) for file in files] == [2, 2, 1]
    assert {row["url"] for row in rows} == {"/v1/chat/completions"}

    def result(row: dict) -> str:
        a, b = opinion(row["body"]["messages"][0]["content"])
        top = [{"token": "A", "logprob": a}, {"token": "B", "logprob": b}]
        body = {"choices": [{"logprobs": {"content": [{**top[0], "top_logprobs": top}]}}]}
        return json.dumps({"custom_id": row["custom_id"], "response": {"status_code": 200, "body": body}})

    (tmp_path / "results_0.jsonl").write_text("\n".join([*map(result, rows[:4][::-1]), "{broken"]))
    with pytest.raises(RhtoolError, match="1 comparisons"):
        list(options.load(None, cache)(asked))
    assert len(list(tmp_path.glob("requests_*.jsonl"))) == 1
    (tmp_path / "results_1.jsonl").write_text(result(rows[4]))
    np.testing.assert_allclose(list(options.load(None, cache)(asked)), [opinion(question(c)) for c in asked])


def test_both_spellings_of_a_letter_count_and_an_absent_one_has_a_floor():
    top = [["A", np.log(0.3)], [" A", np.log(0.2)], ["C", -1.0]]
    a, b = Server(absent=-7.0).opinion({"top": top})
    assert a == pytest.approx(np.log(0.5)) and b == -7.0


def test_two_processes_share_a_cache(tmp_path: Path):
    one, other = Cache(tmp_path / "c.sqlite"), Cache(tmp_path / "c.sqlite")
    one.put({"b": 1, "a": "é"}, {"x": 1.5})
    assert other.get({"a": "é", "b": 1}) == {"x": 1.5} and other.get({"a": "e"}) is None
