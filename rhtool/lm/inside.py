"""A reward model from inside: its embeddings, its hidden states, and what of an answer moves its score.

A score of embeddings is the score of the text whose embeddings they are: texts are never padded, and the position at which the
score is read off is that of the text's own tokens, whatever stands in the place of their embeddings. Where that is not so, attributions
are of another number than the score (a sequence classifier that is given embeddings reads at their end, padding or not).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rhtool.data.base import Message
from rhtool.errors import ConfigError, RhtoolError, nearest
from rhtool.interpret.texts import require_model
from rhtool.lm.judges import Judges, averaged
from rhtool.lm.reward_model import Scorer
from rhtool.rewards.base import Reward
from rhtool.rewards.warm import Warm

TOLERANCE = 1e-3
"""of a score by embeddings against that by tokens, relative to the larger of 1 and the score"""
CHUNK = 32
"""texts of a pass with gradients"""


def scorer_of(reward: Reward) -> Scorer:
    """The one reward model of reward=rm or reward=warm, loaded. Raises `ConfigError` for another reward."""
    if type(reward) is Warm:
        options = {"template": reward.template, "option": f"{reward.option}.template"}
        return averaged([*reward.trained().values()], reward.dtype, reward.max_length, reward.batch, **options)
    require_model(reward)
    options = {"template": reward.template, "option": f"{reward.option}.template"}
    judges = Judges([*reward.trained().values()], reward.dtype, reward.max_length, reward.batch, **options)
    return judges.groups[0][1]


@dataclass
class Tokens:
    """A prompt with its answer as a reward model reads them."""

    ids: list[int]
    """(T,)"""
    start: int
    """the first token of the answer"""
    spans: list[tuple[int, int]]
    """(T - start,): which characters of the answer each token from `start` on ends in; (0, 0) of tokens of the template"""
    pieces: list[str]
    """(T,): their texts"""

    def units(self, spans: Sequence[tuple[int, int]]) -> list[int]:
        """(T - start,): of each token from `start` on, in which of the answer's `spans` (first character, one after the last) it
        ends; -1 for none."""
        found = []
        for low, high in self.spans:
            inside = (i for i, (a, b) in enumerate(spans) if high > low and a <= high - 1 < b)
            found.append(next(inside, -1))
        return found


class Inside:
    """A reward model, opened.

    Args:
        scorer: a causal or bidirectional sequence classifier with one label, and its tokenizer.
    """

    def __init__(self, scorer: Scorer):
        self.scorer, self.model, self.tokenizer = scorer, scorer.model.eval(), scorer.tokenizer
        self.device = scorer.model.device
        self.model.requires_grad_(False)
        self._head = getattr(self.model, "score", None)
        """the layer that gives each token's score; None of models that pool before it"""

    # Text

    def tokens(self, prompt: list[Message], answer: str, finished: bool = True) -> Tokens:
        """Raises `RhtoolError` if the chat template changes the answer."""
        before, after = (x[0] for x in self.scorer.texts([prompt], [answer], [finished]))
        shown = answer if answer in after else answer.strip()
        if (at := after.find(shown)) < 0:
            what = f"the chat template changes answers: {answer[:80]!r} becomes {after[:80]!r}"
            raise RhtoolError(what, "reward.template", "choose a template that only adds: rhtool/lm/templates")
        lost = answer.find(shown) - at
        encoded = self.tokenizer(after, add_special_tokens=False, return_offsets_mapping=True)
        first, second = self.scorer.form.fit(self.scorer.form.ids(before), encoded["input_ids"])
        offsets = encoded["offset_mapping"][: len(second)]
        special = set(self.tokenizer.all_special_ids)
        spans = [
            (max(a, at) + lost, min(b, at + len(shown)) + lost)
            if i not in special and b > at and a < at + len(shown)
            else (0, 0)
            for i, (a, b) in zip(second, offsets, strict=True)
        ]
        pieces = [*map(self.tokenizer.decode, first), *(after[a:b] for a, b in offsets)]
        return Tokens([*first, *second], len(first), spans, pieces)

    # Embeddings

    def embeddings(self, ids: Sequence[int]) -> Tensor:
        """(T, d), detached."""
        with torch.no_grad():
            found = self.model.get_input_embeddings()(torch.tensor(ids, device=self.device))
        return found.detach()

    def score(self, embeddings: Tensor, ids: Sequence[int]) -> Tensor:
        """Scores (B,) of embeddings (B, T, d), read where that of the text `ids` (T,) is read. Differentiable."""
        found: list[Tensor] = []
        hook = (
            self._head.register_forward_hook(lambda _, __, out: found.append(out)) if self._head is not None else None
        )
        try:
            mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
            out = self.model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
        finally:
            if hook:
                hook.remove()
        if not found or found[-1].ndim < 3:
            return out.logits.squeeze(-1)
        return found[-1][:, self.read_at(ids), 0]

    def read_at(self, ids: Sequence[int]) -> int:
        """The token whose score is the text's: the last that is no padding."""
        pad = self.model.config.get_text_config().pad_token_id
        return max((i for i, token in enumerate(ids) if token != pad), default=0) if pad is not None else len(ids) - 1

    def score_ids(self, ids: Sequence[int]) -> float:
        """As the reward has it."""
        return float(self.scorer.of_ids([list(ids)])[0])

    def checked(self, ids: Sequence[int]) -> float:
        """The score by tokens. Raises `RhtoolError` unless that by embeddings is the same."""
        direct = self.score_ids(ids)
        with torch.no_grad():
            through = float(self.score(self.embeddings(ids).unsqueeze(0), ids)[0])
        if not abs(direct - through) <= TOLERANCE * max(1.0, abs(direct)):
            what = f"the score of a text is {direct:.6g}, and that of its embeddings {through:.6g}"
            mend = "its attributions would be of another number; use methods that ask for scores alone"
            raise RhtoolError(what, type(self.model).__name__, mend)
        return direct

    def baseline(self, name: str, tokens: Tokens, end: bool = False) -> tuple[Tensor, list[int] | None]:
        """Embeddings (T, d) with all that is to be attributed replaced, and the tokens that they are, if they are tokens'.

        Args:
            name: "mean", the mean of all embeddings; "zero"; "pad", the padding token; or the text of another token.
            end: whether what follows the answer, the end token, is replaced too.
        """
        fixed = [
            i < tokens.start or (not end and tokens.spans[i - tokens.start] == (0, 0)) for i in range(len(tokens.ids))
        ]
        where = torch.tensor(fixed, device=self.device)
        own = self.embeddings(tokens.ids)
        if name in ("mean", "zero"):
            weight = self.model.get_input_embeddings().weight.detach()
            value = weight.float().mean(0).to(own.dtype) if name == "mean" else torch.zeros_like(own[0])
            return torch.where(where.unsqueeze(1), own, value), None
        token = self.tokenizer.pad_token_id if name == "pad" else self._token(name)
        ids = [i if kept else token for kept, i in zip(fixed, tokens.ids, strict=True)]
        return self.embeddings(ids), ids

    def _token(self, text: str) -> int:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            what = f"'{text}' is {len(ids)} tokens of this model"
            raise ConfigError(what, "method.baseline", "give mean, zero, pad, or the text of one token")
        return ids[0]

    # Attribution

    def gradient(self, tokens: Tokens, base: Tensor) -> Tensor:
        """Gradient times what is different from the baseline (T, d): (T,), the first order of the score's change."""
        own = self.embeddings(tokens.ids)
        at = own.unsqueeze(0).clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.score(at, tokens.ids).sum(), at)
        return ((own - base) * slope[0]).sum(-1).float().cpu()

    def integrated_gradients(self, tokens: Tokens, base: Tensor, steps: int = 32) -> Tensor:
        """(T,): (x - x0) . mean of the gradients at x0 + (k - 1/2) / steps (x - x0), k = 1 .. steps: the midpoint rule for the integral of
        Sundararajan et al. 2017 (arXiv 1703.01365, equation 1). Their sum is the difference of the scores at x and x0 but for the
        rule's error."""
        own = self.embeddings(tokens.ids)
        shares = (torch.arange(steps, device=self.device, dtype=own.dtype) + 0.5) / steps
        total = torch.zeros_like(own)
        for part in shares.split(CHUNK):
            at = (base + part[:, None, None] * (own - base)).requires_grad_(True)
            (slope,) = torch.autograd.grad(self.score(at, tokens.ids).sum(), at)
            total += slope.sum(0)
        return ((own - base) * total / steps).sum(-1).float().cpu()

    # Layers

    @property
    def blocks(self) -> nn.ModuleList:
        """Its transformer blocks."""
        return max((m for m in self.model.modules() if isinstance(m, nn.ModuleList)), key=len)

    def layer(self, name: str) -> nn.Module:
        """The module of that dotted name; a number is that of a block, -1 the last. Raises `ConfigError` that lists those there are."""
        if name.lstrip("-").isdigit():
            if not -len(self.blocks) <= int(name) < len(self.blocks):
                what = f"there is no block {name} among {len(self.blocks)}"
                raise ConfigError(what, "method.layer", f"choose 0 to {len(self.blocks) - 1}, or -1 for the last")
            return self.blocks[int(name)]
        modules = dict(self.model.named_modules())
        if name not in modules or not name:
            known = [key for key in modules if key]
            mend = f"{nearest(name, known)} The layers: {', '.join(known)}"
            raise ConfigError(f"there is no layer '{name}'", "method.layer", mend)
        return modules[name]

    @property
    def final_norm(self) -> nn.Module:
        """What stands between the last block and the head. Raises `ConfigError` if it is not found."""
        inside = {id(m) for m in self.blocks.modules()}
        found = [m for m in self.model.modules() if "norm" in type(m).__name__.lower() and id(m) not in inside]
        if self._head is None or not found:
            what = f"{type(self.model).__name__} has no head of one score behind a last norm"
            raise ConfigError(
                what, "reward", "the lens needs a causal sequence classifier, as task=rm_train makes them"
            )
        return found[-1]

    @property
    def has_head(self) -> bool:
        """Whether each token has a score, one of which is the text's."""
        return self._head is not None

    @property
    def head(self) -> Tensor:
        """(d,): the weights of the score, float32; by what the layer gives, for adapters wrap it."""
        width = self.model.get_input_embeddings().weight
        unit = torch.eye(self.model.config.get_text_config().hidden_size, dtype=width.dtype, device=self.device)
        with torch.no_grad():
            return self._head(unit)[:, 0].float() - self.bias

    @property
    def bias(self) -> float:
        """Of the score; 0 where its head has none."""
        width = self.model.get_input_embeddings().weight
        nothing = torch.zeros(1, self.model.config.get_text_config().hidden_size, dtype=width.dtype, device=self.device)
        with torch.no_grad():
            return float(self._head(nothing)[0, 0])

    def parts(self) -> dict[str, nn.Module]:
        """`{name: module}` of what writes into the residual stream: attention and MLP of each block."""
        found = {}
        for i, block in enumerate(self.blocks):
            for name, child in block.named_children():
                lower = name.lower()
                if "norm" in lower or "ln" in lower or "dropout" in lower:
                    continue
                if "att" in lower:
                    found[f"block {i} attention"] = child
                elif "mlp" in lower or "feed" in lower or "moe" in lower:
                    found[f"block {i} mlp"] = child
        return found

    @torch.no_grad()
    def record(self, rows: Sequence[Sequence[int]], modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
        """Of each text, as tokens, what each module gives: `{name: (T, d)}` float32 on the CPU. The name "embeddings" is that of
        what the first block is given."""
        for start in range(0, len(rows), self.scorer.batch):
            part = [torch.tensor(row, dtype=torch.long) for row in rows[start : start + self.scorer.batch]]
            seen = self._seen(part, modules)
            for k, row in enumerate(part):
                yield {name: x[k, : len(row)].float().cpu() for name, x in seen.items()}

    def _seen(self, rows: list[Tensor], modules: dict[str, nn.Module]) -> dict[str, Tensor]:
        """`{name: (B, T, d)}` of one padded pass."""
        seen: dict[str, Tensor] = {}

        def first(_: Any, args: Any, kwargs: Any) -> None:
            seen["embeddings"] = args[0] if args else kwargs["hidden_states"]

        hooks = [m.register_forward_hook(_keep(seen, name)) for name, m in modules.items()]
        hooks.append(self.blocks[0].register_forward_pre_hook(first, with_kwargs=True))
        try:
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
            mask = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
            self.model(padded.to(self.device), attention_mask=mask.long().to(self.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    @torch.no_grad()
    def changed(self, ids: Sequence[int], module: nn.Module, change: Callable[[Tensor], Tensor]) -> float:
        """The text's score with what the module gives, (T, d), replaced by `change` of it."""

        def hook(_: Any, __: Any, out: Any) -> Any:
            whole = out[0] if isinstance(out, tuple) else out
            new = change(whole[0].float().cpu()).to(whole).unsqueeze(0)
            return (new, *out[1:]) if isinstance(out, tuple) else new

        handle = module.register_forward_hook(hook)
        try:
            row = torch.tensor([list(ids)], device=self.device)
            return float(self.model(row, attention_mask=torch.ones_like(row), use_cache=False).logits.squeeze())
        finally:
            handle.remove()

    def slope(self, ids: Sequence[int], module: nn.Module) -> Tensor:
        """(T, d): the gradient of the text's score by what the module gives, float32 on the CPU."""
        seen: dict[str, Tensor] = {}

        def hook(_: Any, __: Any, out: Any) -> Any:
            whole = (out[0] if isinstance(out, tuple) else out).detach().requires_grad_(True)
            seen["at"] = whole
            return (whole, *out[1:]) if isinstance(out, tuple) else whole

        handle = module.register_forward_hook(hook)
        try:
            row = torch.tensor([list(ids)], device=self.device)
            score = self.model(row, attention_mask=torch.ones_like(row), use_cache=False).logits.sum()
            (found,) = torch.autograd.grad(score, seen["at"])
        finally:
            handle.remove()
        return found[0].float().cpu()


def _keep(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(_: Any, __: Any, out: Any) -> None:
        seen[name] = out[0] if isinstance(out, tuple) else out

    return hook
