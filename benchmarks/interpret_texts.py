"""Attribution of a reward model of texts: integrated gradients against captum's, and what the other methods cost.

    python benchmarks/interpret_texts.py [directory of a reward model]

Without a directory, of a random model of the toy language of a few million weights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from rhtool.data.base import VALIDATION
from rhtool.data.toy import Toy
from rhtool.interpret import spans
from rhtool.interpret.texts import checked
from rhtool.lm.inside import Inside, scorer_of
from rhtool.lm.loading import reward_model
from rhtool.lm.process import set_up
from rhtool.lm.reward_model import Scorer
from rhtool.lm.text import corpus, tokenizer_of
from rhtool.models import Tiny
from rhtool.rewards.rm import Rm

ANSWERS, STEPS, PERMUTATIONS = 20, 32, 16


def timed(what: str, function: Callable[[], object], times: int = 3) -> tuple[float, object]:
    """Seconds for an answer, the least of several passes over all of them, and what the last one gave."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        found = function()
        seconds.append((time.perf_counter() - start) / ANSWERS)
    print(f"{what:<44} {min(seconds) * 1000:9.1f} ms an answer")
    return min(seconds), found


def main() -> None:
    set_up(1)
    data = Toy(n_validation=ANSWERS)
    if len(sys.argv) > 1:
        inside = Inside(scorer_of(Rm(model=sys.argv[1])))
    else:
        model = Tiny(family="llama", layers=6, width=256, heads=4)
        tokenizer = tokenizer_of(model, corpus(data))
        inside = Inside(Scorer(reward_model(model, tokenizer, 0), tokenizer))
    rows = data.preferences(VALIDATION)
    texts = [row["chosen"] for row in rows]
    tokens = [inside.tokens(row["prompt"], text) for row, text in zip(rows, texts, strict=True)]
    bases = [inside.baseline("mean", t)[0] for t in tokens]
    count = sum(p.numel() for p in inside.model.parameters())
    words = np.mean([len(text.split()) for text in texts])
    print(f"{count / 1e6:.1f} M weights, {ANSWERS} answers of {words:.0f} words in the mean, {STEPS} steps, 1 thread")

    def ours() -> list[np.ndarray]:
        return [inside.integrated_gradients(t, b, STEPS).numpy() for t, b in zip(tokens, bases, strict=True)]

    own, mine = timed("integrated gradients", ours)
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        print("captum is not installed: pip install captum")
    else:

        def theirs() -> list[np.ndarray]:
            found = []
            for t, b in zip(tokens, bases, strict=True):
                method = IntegratedGradients(lambda e, t=t: inside.score(e, t.ids))
                x = inside.embeddings(t.ids)[None]
                a = method.attribute(x, b[None], n_steps=STEPS, method="riemann_middle", internal_batch_size=STEPS)
                found.append(a[0].sum(-1).detach().numpy())
            return found

        other, captums = timed("captum's", theirs)
        difference = max(np.abs(a - b).max() for a, b in zip(mine, captums, strict=True))
        print(f"{'':<44} {other / own:9.2f} x; largest difference {difference:.1e}")

    timed("gradient", lambda: [inside.gradient(t, b) for t, b in zip(tokens, bases, strict=True)])
    asked = 0

    def value(row: dict, text: str) -> spans.Remembered:
        def score(versions: list[str]) -> np.ndarray:
            nonlocal asked
            asked += len(versions)
            found = inside.scorer([row["prompt"]] * len(versions), versions).double().numpy()
            return checked("proxy", found, [row] * len(versions), versions)

        return spans.Remembered(score, spans.Pieces.of(text, "word"))

    for name, function in {
        "leave one out": spans.leave_one_out,
        "prefix increments": spans.prefix_increments,
        f"Shapley values, {PERMUTATIONS} orders": lambda v: spans.shapley(v, PERMUTATIONS, 0),
    }.items():
        asked = 0
        timed(name, lambda function=function: [function(value(r, t)) for r, t in zip(rows, texts, strict=True)], 1)
        print(f"{'':<44} {asked / ANSWERS:9.0f} versions scored an answer")


if __name__ == "__main__":
    main()
