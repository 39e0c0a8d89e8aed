"""Conversations as text and tokens: chat templates, a tokenizer made on the spot, and what is cut where there are too many."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rhtool.data.base import TRAIN, Data, Message, Row
from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.models import Model, Tiny

TEMPLATES = Path(__file__).parent / "templates"
PAD, END, PROMPTER, ASSISTANT, SYSTEM = "<|padding|>", "<|endoftext|>", "<|prompter|>", "<|assistant|>", "<|system|>"
"""special tokens of Open-Assistant, whose template (oasst) the papers' Pythia models have"""


log = logging.getLogger(__name__)


def template(name: str, option: str = "model.template") -> str:
    """The Jinja text of a chat template, by the name of a file of `templates/` or by a path. Raises `ConfigError`."""
    file = TEMPLATES / f"{name}.jinja"
    if file.is_file():
        return file.read_text()
    if Path(name).is_file():
        return Path(name).read_text()
    known = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
    raise ConfigError(f"there is no template '{name}'", option, nearest(name, known))


def tokenizer_of(model: Model, texts: Iterable[str] | None = None) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a pad token, an end token and a chat template; padding on the left, as generation wants it.

    Of a `Tiny` model without a path it is trained on `texts`. Raises `RhtoolError` where one of the three is missing
    and cannot be put in its place.
    """
    if isinstance(model, Tiny) and not model.path:
        return trained_tokenizer(texts or (), model.vocabulary, model.context, template(model.template or "oasst"))
    return tokenizer_at(model.source(), model.template, model.revision)


def tokenizer_at(
    source: str,
    chat_template: str = "",
    revision: str | None = None,
    option: str = "model.template",
    new_tokens: bool = True,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory or of a model on the hub, likewise; `chat_template`, which is that of the user's `option`,
    takes the place of its own, and unless `new_tokens` is false brings its special tokens: a model that is not trained any more
    knows none but its own."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        mend = "give a directory with tokenizer.json, or a hub name"
        raise RhtoolError(f"the tokenizer cannot be loaded: {_first_line(error)}", source, mend) from error
    if chat_template:
        tokenizer.chat_template = template(chat_template, option)
        missing = [t for t in (PROMPTER, ASSISTANT, SYSTEM) if new_tokens and t in tokenizer.chat_template]
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    if not tokenizer.chat_template:
        mend = f"choose one: {option}=oasst (rhtool/lm/templates), or give a path of your own"
        raise RhtoolError("the tokenizer has no chat template", source, mend)
    if tokenizer.eos_token is None:
        raise RhtoolError("the tokenizer has no end token", source, "set eos_token in its tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # what is padded is masked, so that any token will do
    tokenizer.padding_side = "left"
    return tokenizer


def trained_tokenizer(texts: Iterable[str], size: int, context: int, chat_template: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `size` tokens, learnt from the texts: every string comes back as it went in."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [PAD, END, PROMPTER, ASSISTANT, SYSTEM]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=special[2:],
        padding_side="left",
        model_max_length=context,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def corpus(data: Data) -> Iterator[str]:
    """Texts from which a tokenizer learns what the data look like: demonstrations, or where there are none preferences. Read
    only where a tokenizer is to be trained."""
    try:
        rows = data.demonstrations(TRAIN)
    except RhtoolError:
        rows = data.preferences(TRAIN)
    for row in rows:
        yield from (message["content"] for message in row["prompt"])
        yield row["answer"] if "answer" in row else row["chosen"]


@dataclass
class Format:
    """How a model sees conversations.

    Args:
        tokenizer: with a chat template and an end token.
        max_length: tokens of a prompt and its answer together.
        min_prompt: tokens that a prompt keeps, if it has them, beside an answer that would take all; None: half of them.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    min_prompt: int | None = None
    cut: int = field(default=0, init=False)
    """texts so far that were longer than `max_length`"""

    def prompt(self, messages: list[Message]) -> str:
        """The text after which the assistant begins to speak."""
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def answer(self, messages: list[Message], answer: str, prompt: str | None = None) -> str:
        """What the text goes on with when the assistant says `answer`, to the end token that ends its turn. `prompt`: that of
        `messages`, if it is known.

        Raises `RhtoolError` for a template of which a conversation is not the beginning of what it grows into: there
        what is scored would not be what was sampled.
        """
        prompt = self.prompt(messages) if prompt is None else prompt
        whole = self.tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": answer}], tokenize=False, add_generation_prompt=False
        )
        if not whole.startswith(prompt):
            raise RhtoolError(
                "the chat template writes a conversation anew when it goes on, so that an answer has no text of its own",
                "model.template",
                "choose a template that only adds: rhtool/lm/templates",
            )
        text, end = whole[len(prompt) :], self.tokenizer.eos_token
        return text[: text.rindex(end) + len(end)] if end in text else text + end

    def pair(self, messages: list[Message], answer: str) -> tuple[list[int], list[int]]:
        """Tokens of prompt and answer, tokenised apart and cut to `max_length` together."""
        return self.fit(self.ids(self.prompt(messages)), self.ids(self.answer(messages, answer)))

    def fit(self, prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
        """The answer stays whole as long as the prompt keeps `min_prompt` tokens: the prompt loses its beginning, then
        the answer its end (Open-Assistant's collator for rankings)."""
        least = self.max_length // 2 if self.min_prompt is None else self.min_prompt
        room = max(min(least, self.max_length), self.max_length - len(answer))
        self.cut += len(prompt) + len(answer) > self.max_length
        prompt = prompt[-room:]
        return prompt, answer[: self.max_length - len(prompt)]

    def all_ids(self, texts: list[str]) -> list[list[int]]:
        """`ids` of several texts, at once."""
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def ids(self, text: str) -> list[int]:
        """Tokens of a text that has its special tokens already."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def check_prompts(form: Format, rows: Sequence[Row], context: int | None, max_prompt: int, max_new_tokens: int) -> None:
    """Raise `ConfigError` if the prompt of a row, which loses its beginning beyond `max_prompt` tokens, and an answer are more
    than the model's context; warn of the prompts that lose theirs."""
    room = max_prompt if context is None else context - max_new_tokens
    if room < 1:
        said = f"answers of {max_new_tokens} tokens leave no room for a prompt in the model's context of {context}"
        raise ConfigError(said, "task.max_new_tokens", f"choose {max(1, context // 2)} or less")
    lengths = [len(ids) for ids in form.all_ids([form.prompt(row["prompt"]) for row in rows])]
    longest = max(range(len(rows)), key=lengths.__getitem__)
    if min(lengths[longest], max_prompt) > room:
        said = f"{lengths[longest]} tokens of a prompt ({rows[longest]['prompt'][-1]['content'][:60]!r}) and {max_new_tokens} of "
        mend = f"task.max_prompt={room} cuts longer ones at their beginning; or choose a smaller task.max_new_tokens"
        raise ConfigError(f"{said}an answer exceed the model's context of {context}", "task.max_prompt", mend)
    if cut := sum(length > max_prompt for length in lengths):
        log.warning(
            "%d of %d prompts are longer than task.max_prompt=%d and lose their beginning", cut, len(rows), max_prompt
        )


def check_lengths(form: Format, texts: list[list[int]], context: int | None) -> None:
    """Raise `ConfigError` if one of the tokenised `texts` is longer than the model's context; warn of those that `form` has cut."""
    longest = max(map(len, texts))
    if context is not None and longest > context:
        said = f"a row of {longest} tokens exceeds the model's context of {context}"
        mend = f"task.max_length={context} cuts longer rows: prompts at their beginning, then answers at their end"
        raise ConfigError(said, "task.max_length", mend)
    if form.cut:
        said = "%d of %d texts are longer than task.max_length=%d and were cut: prompts at their beginning, then answers at their end"
        log.warning(said, form.cut, len(texts), form.max_length)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
