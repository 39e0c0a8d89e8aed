"""What twelve principles cost: adapters that take turns in one base, in units of twelve forward passes of the base.

    python benchmarks/principles.py

A GPT-NeoX classifier in the size of pythia-70m (6 layers of width 512) and adapters of rank 8 with random weights, saved to a
temporary folder and loaded by reward=morl. The goal is 1.2.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model

from rhtool.data.toy_language import vocabulary
from rhtool.lm.process import set_up
from rhtool.lm.text import template, trained_tokenizer
from rhtool.models import Trained
from rhtool.rewards.morl import Morl

PRINCIPLES, ANSWERS, WORDS = 12, 32, 60


def save(root: Path) -> None:
    """The base, and an adapter of it for each principle."""
    from transformers import GPTNeoXConfig, GPTNeoXForSequenceClassification

    tokenizer = trained_tokenizer(vocabulary(), 512, 512, template("oasst"))
    sizes = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GPTNeoXConfig(vocab_size=len(tokenizer), max_position_embeddings=512, num_labels=1, **sizes, **ids)
    GPTNeoXForSequenceClassification(config).save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    lora = LoraConfig(r=8, lora_alpha=32, task_type=TaskType.SEQ_CLS, modules_to_save=["score"])
    for k in range(PRINCIPLES):
        base = GPTNeoXForSequenceClassification.from_pretrained(root / "base")
        made = get_peft_model(base, lora)
        for parameter in made.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.02)
        made.save_pretrained(root / "principles" / f"principle_{k:02d}")


def best(function, times: int = 3) -> float:
    """Processor seconds of the quickest call."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return min(seconds)


def main() -> None:
    set_up(1)
    from rhtool.lm.judges import Judges

    rng = random.Random(0)
    rows = [
        {"prompt": [{"role": "user", "content": " ".join(rng.choices(vocabulary(), k=10))}]} for _ in range(ANSWERS)
    ]
    answers = [" ".join(rng.choices(vocabulary(), k=WORDS)) for _ in range(ANSWERS)]
    finished = [True] * ANSWERS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save(root)
        reward = Morl(directory=str(root / "principles"))
        reward.check()
        together, base = reward.load(), Judges([Trained(str(root / "base"))])
        scorer = base.groups[0][1]
        ids = scorer.ids([row["prompt"] for row in rows], answers, finished)
        one, turns = best(lambda: scorer.of_ids(ids)), best(lambda: together(rows, answers, finished))
    tokens = sum(map(len, ids)) / len(ids)
    print(f"{PRINCIPLES} principles, {ANSWERS} answers of {tokens:.0f} tokens in the mean, 1 thread, processor seconds")
    print(f"  a forward pass of the base {one:8.2f} s")
    print(f"  all principles             {turns:8.2f} s   {turns / one / PRINCIPLES:.2f} x {PRINCIPLES} forward passes")


if __name__ == "__main__":
    main()
