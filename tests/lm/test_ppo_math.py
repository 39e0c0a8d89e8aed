"""The mathematics of PPO on texts, against definitions, exact expectations and numbers of the papers' codes."""

from __future__ import annotations

import json
import math

import pytest

from rhtool.config import subclasses
from rhtool.divergences import KL, Chi2, Divergence, NoDivergence, SqrtChi2
from rhtool.errors import ConfigError, RhtoolError
from rhtool.schema import option_name

torch = pytest.importorskip("torch")
from rhtool.lm import ppo_math as m  # noqa: E402

DIVERGENCES = {"none": NoDivergence, "kl": KL, "chi2": Chi2, "sqrt_chi2": SqrtChi2}
B, T = 5, 9
LENGTHS = torch.tensor([9, 1, 4, 0, 6])


def right_padded() -> torch.Tensor:
    return torch.arange(T) < LENGTHS.unsqueeze(1)


def left_padded() -> torch.Tensor:
    return torch.arange(T) >= T - LENGTHS.unsqueeze(1)


MASKS = pytest.mark.parametrize("mask", [right_padded(), left_padded()], ids=["right", "left"])


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    names = ("rewards", "values", "old_values", "returns", "advantages", "log_prob", "old_log_prob", "base_log_prob")
    return {name: random(B, T, seed=10 * seed + i, dtype=dtype) / 3 for i, name in enumerate(names)}


# --- over valid tokens ----------------------------------------------------------------------------------------------


@MASKS
def test_statistics_are_those_of_the_valid_tokens(mask):
    x = random(B, T)
    valid = x[mask].numpy()
    assert m.masked_mean(x, mask).item() == pytest.approx(valid.mean())
    assert m.masked_variance(x, mask).item() == pytest.approx(valid.var())
    white = m.whiten(x, mask)
    assert white[mask].mean().item() == pytest.approx(0, abs=1e-12) and white[~mask].eq(0).all()
    assert white[mask].var(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(m.whiten(torch.full((B, T), 3.0), mask), torch.zeros(B, T))  # a constant is no signal


def test_nothing_valid_counts_nothing():
    none, x = torch.zeros(2, 3, dtype=torch.bool), random(2, 3).requires_grad_()
    loss = m.policy_loss(x, x, x, none, 0.2)[0] + m.value_loss(x, x, x, none, 0.2)[0]
    for divergence in DIVERGENCES.values():
        loss = loss + m.divergence_loss(divergence(), x, none)
    loss.backward()
    assert torch.equal(x.grad, torch.zeros(2, 3)) and m.whiten(x, none).eq(0).all()
    assert all(math.isnan(value) for value in m.divergence_metrics(x, none).values())


@MASKS
def test_a_score_lands_on_the_last_token(mask):
    placed = m.at_last_token(torch.arange(1.0, B + 1), mask)
    for row in range(B):
        at = mask[row].nonzero().flatten().tolist()
        assert placed[row].nonzero().flatten().tolist() == at[-1:]
        assert placed[row].sum() == (row + 1 if at else 0)


def test_a_score_that_is_missing_stays_out_of_a_row_that_does_not_count():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert m.at_last_token(torch.tensor([2.0, math.nan]), mask).tolist() == [[0, 2, 0], [0, 0, 0]]


def everything(data: dict[str, torch.Tensor], mask: torch.Tensor) -> list[torch.Tensor]:
    """All that depends on tokens, and all gradients of it."""
    live = {name: data[name].clone().requires_grad_() for name in ("log_prob", "values")}
    ratio = live["log_prob"] - data["base_log_prob"]
    advantages, returns = m.gae(data["rewards"], data["values"], mask, 0.99, 0.9)
    values = [
        *m.policy_loss(live["log_prob"], data["old_log_prob"], m.whiten(advantages, mask), mask, 0.1),
        *m.value_loss(live["values"], data["old_values"], returns, mask, 0.1),
        torch.tensor(m.explained_variance(data["values"], returns, mask)),
        torch.tensor(list(m.divergence_metrics(ratio, mask).values())),
        m.sequence_log_ratio(live["log_prob"], data["base_log_prob"], mask),
    ]
    for divergence in DIVERGENCES.values():
        for level in ("sequence", "token"):
            for grad in ("pathwise", "reinforce"):
                values.append(m.divergence_loss(divergence(), ratio, mask, level, grad))
            if level == "sequence" or divergence.additive:
                values.append(m.divergence_cost(divergence(), ratio, mask, level)[mask])
    sum(value.sum() for value in values if value.requires_grad).backward()
    return [value.detach() for value in values] + [
        x[mask] for x in (advantages, returns, live["log_prob"].grad, live["values"].grad)
    ]


@MASKS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("filling", [7.25, math.nan, math.inf, -math.inf])
def test_padding_changes_no_bit(mask, dtype, filling):
    data = batch(dtype=dtype)
    other = {name: torch.where(mask, x, filling) for name, x in data.items()}
    for before, after in zip(everything(data, mask), everything(other, mask), strict=True):
        assert torch.equal(before, after) and torch.isfinite(before).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_more_padding_changes_no_bit(dtype, side):
    mask, data = left_padded() if side == "left" else right_padded(), batch(dtype=dtype)
    extra = (13, 0) if side == "left" else (0, 13)
    wide = {name: torch.nn.functional.pad(x, extra, value=math.nan) for name, x in data.items()}
    for before, after in zip(
        everything(data, mask), everything(wide, torch.nn.functional.pad(mask, extra)), strict=True
    ):
        if dtype == torch.float32:
            assert torch.equal(before, after)
        else:  # a sum of float64 in float64 may be rounded in another order
            assert torch.allclose(before, after, rtol=1e-13, atol=1e-13)


# --- advantages and losses ------------------------------------------------------------------------------------------


def test_gae_has_the_papers_numbers():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.2, 0.3]])
    advantages, returns = m.gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), 1.0, 0.95)
    assert advantages[0].tolist() == pytest.approx([0.82675, 0.765, 0.7])
    assert returns[0].tolist() == pytest.approx([0.92675, 0.965, 1.0])


@MASKS
@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 1.0), (0.97, 0.6), (1.0, 0.0), (1.0, 1.0)])
def test_gae_is_its_definition(mask, gamma, lam):
    """The double sum of deltas over each text, cut out of its padding."""
    data = batch(1)
    advantages, returns = m.gae(data["rewards"], data["values"], mask, gamma, lam)
    for row in range(B):
        r, v = (data[name][row, mask[row]].tolist() for name in ("rewards", "values"))
        v.append(0.0)
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
        expected = [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, len(r))) for t in range(len(r))]
        assert advantages[row, mask[row]].tolist() == pytest.approx(expected)
        assert returns[row, mask[row]].tolist() == pytest.approx([a + b for a, b in zip(expected, v, strict=False)])
    assert advantages[~mask].eq(0).all() and returns[~mask].eq(0).all()


@MASKS
@pytest.mark.parametrize("clip", [0.05, 0.2, 5.0])
def test_losses_are_their_definitions(mask, clip):
    data = {name: x.tolist() for name, x in batch(2).items()}
    tensors = batch(2)
    where = mask.nonzero().tolist()

    def clamp(x: float, low: float, high: float) -> float:
        return min(max(x, low), high)

    policy, policy_clipped, value, value_clipped = [], [], [], []
    for i, t in where:
        ratio, a = math.exp(data["log_prob"][i][t] - data["old_log_prob"][i][t]), data["advantages"][i][t]
        policy.append(max(-a * ratio, -a * clamp(ratio, 1 - clip, 1 + clip)))
        policy_clipped.append(not 1 - clip <= ratio <= 1 + clip)
        v, old, target = (data[name][i][t] for name in ("values", "old_values", "returns"))
        pair = (v - target) ** 2, (clamp(v, old - clip, old + clip) - target) ** 2
        value.append(max(pair) / 2)
        value_clipped.append(pair[1] > pair[0])
    n = len(where)
    found = m.policy_loss(tensors["log_prob"], tensors["old_log_prob"], tensors["advantages"], mask, clip)
    assert [x.item() for x in found] == pytest.approx([sum(policy) / n, sum(policy_clipped) / n])
    found = m.value_loss(tensors["values"], tensors["old_values"], tensors["returns"], mask, clip)
    assert [x.item() for x in found] == pytest.approx([sum(value) / n, sum(value_clipped) / n])
    if clip == 5.0:
        assert sum(policy_clipped) == sum(value_clipped) == 0


def test_clipped_losses_push_no_further():
    """Beyond the clip there is no gradient away from the old policy or value, but there is one back."""
    mask = torch.ones(1, 2, dtype=torch.bool)
    log_prob = torch.tensor([[0.5, 0.5]], requires_grad=True)
    m.policy_loss(log_prob, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), mask, 0.2)[0].backward()
    assert log_prob.grad[0, 0] == 0 and log_prob.grad[0, 1] > 0
    values = torch.tensor([[0.5, 0.5]], requires_grad=True)
    m.value_loss(values, torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), mask, 0.2)[0].backward()
    assert values.grad[0, 0] == 0 and values.grad[0, 1] > 0


def test_explained_variance():
    mask, returns = right_padded(), random(B, T)
    assert m.explained_variance(returns + 3, returns, mask) == pytest.approx(1)
    assert m.explained_variance(torch.zeros(B, T), returns, mask) == pytest.approx(0)
    assert m.explained_variance(-returns, returns, mask) == pytest.approx(-3)
    assert math.isnan(m.explained_variance(returns, torch.ones(B, T), mask))


# --- divergence from the base policy --------------------------------------------------------------------------------


def test_log_ratios_of_masked_actions():
    """Where both policies exclude a token, at padding, -inf - -inf is no one's business; gradients neither."""
    logits = random(1, 3, 4).requires_grad_()
    masked = torch.tensor([[[False] * 4, [False] * 4, [True] + [False] * 3]])
    log_prob = logits.masked_fill(masked, -math.inf).log_softmax(-1)[..., 0]
    mask = torch.tensor([[True, True, False]])
    ratio = m.sequence_log_ratio(log_prob, torch.tensor([[-1.0, -2.0, -math.inf]]), mask)
    ratio.sum().backward()
    assert ratio.item() == pytest.approx(log_prob[0, :2].sum().item() + 3)
    assert torch.isfinite(logits.grad).all() and logits.grad[0, 2].eq(0).all()


def test_long_texts_are_summed_in_float64():
    tokens = random(200, 2000, dtype=torch.float32) - 3
    ratio = m.sequence_log_ratio(tokens, torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool))
    exact = torch.tensor([math.fsum(row) for row in tokens.tolist()])
    assert torch.equal(ratio, exact) and not torch.equal(tokens.sum(1), exact)


def test_texts_of_tokens_in_half_precision():
    mask, ratio = right_padded(), random(B, T).to(torch.bfloat16)
    whole = m.sequence_log_ratio(ratio, torch.zeros_like(ratio), mask)
    assert whole.dtype == torch.float32
    assert whole.tolist() == pytest.approx([ratio[i, mask[i]].double().sum().item() for i in range(B)], rel=1e-6)
    cost = m.divergence_cost(SqrtChi2(), ratio, mask)
    assert torch.equal(cost.float(), m.divergence_cost(SqrtChi2(), ratio.float(), mask))


LENGTH, WORDS = 2, 3


class Language:
    """All texts of two words out of three with their probabilities under two autoregressive policies: expectations
    are exact sums, in which every text is there as often as it is likely."""

    def __init__(self, spread: float = 0.7) -> None:
        first, second = random(WORDS, seed=5) * spread, random(WORDS, WORDS, seed=6) * spread
        self.parameters = [first.requires_grad_(), second.requires_grad_()]
        self.base = self.tokens([random(WORDS, seed=7) * spread, random(WORDS, WORDS, seed=8) * spread])
        self.log_prob = self.tokens(self.parameters)
        p = self.log_prob.detach().sum(1).exp()
        counts = (p * 4000).round().long()
        assert counts.min() > 0
        self.index = torch.repeat_interleave(torch.arange(len(p)), counts)
        # The policy whose texts are there exactly as often as they are likely: its parameters from the counts.
        table = counts.double().view(WORDS, WORDS)
        self.parameters = [table.sum(1).log().requires_grad_(), table.log().requires_grad_()]
        self.log_prob = self.tokens(self.parameters)

    @staticmethod
    def tokens(parameters: list[torch.Tensor]) -> torch.Tensor:
        first, second = (x.log_softmax(-1) for x in parameters)
        return torch.stack([first.unsqueeze(1).expand(WORDS, WORDS), second], -1).view(-1, LENGTH)

    def exact(self, name: str) -> torch.Tensor:
        """D(pi || base) of texts, differentiable in the policy's parameters."""
        pi, base = self.log_prob.sum(1), self.base.sum(1)
        if name == "kl":
            return (pi.exp() * (pi - base)).sum()
        chi2 = (2 * pi - base).exp().sum() - 1
        return chi2 if name == "chi2" else chi2.sqrt()

    def forward_kl(self) -> torch.Tensor:
        pi, base = self.log_prob.sum(1), self.base.sum(1)
        return (base.exp() * (base - pi)).sum()

    def gradient(self, value: torch.Tensor) -> torch.Tensor:
        grads = torch.autograd.grad(value, self.parameters, retain_graph=True)
        return torch.cat([g.flatten() for g in grads])

    @property
    def log_ratio(self) -> torch.Tensor:
        """Per token, of the texts in proportion (N, T)."""
        return (self.log_prob - self.base)[self.index]

    @property
    def mask(self) -> torch.Tensor:
        return torch.ones(len(self.index), LENGTH, dtype=torch.bool)


@pytest.fixture(scope="module")
def language() -> Language:
    return Language()


@pytest.mark.parametrize("name", ["kl", "chi2", "sqrt_chi2"])
@pytest.mark.parametrize("grad", ["pathwise", "reinforce"])
def test_the_divergence_of_texts_in_the_loss(language, name, grad):
    """Its value is D exactly, and its gradient the one that it says: D's own, or facts (i) and (ii)."""
    loss = m.divergence_loss(DIVERGENCES[name](), language.log_ratio, language.mask, "sequence", grad)
    exact = language.exact(name)
    assert loss.item() == pytest.approx(exact.item())
    own, forward = language.gradient(exact), language.gradient(language.forward_kl())
    pathwise = {"kl": forward, "chi2": own / 2 + forward}
    pathwise["sqrt_chi2"] = (language.gradient(language.exact("chi2")) / 2 + forward) / (2 * exact)
    assert torch.allclose(language.gradient(loss), own if grad == "reinforce" else pathwise[name])
    assert (forward - own).abs().max() > 0.01  # or it would not matter


@pytest.mark.parametrize("name", ["kl", "chi2", "sqrt_chi2"])
@pytest.mark.parametrize("level", ["sequence", "token"])
def test_the_divergence_of_texts_in_the_reward(language, name, level):
    """The policy gradient with returns to go, sum_t grad log pi_t sum_s>=t cost_s, is D's own."""
    if level == "token" and name != "kl":
        with pytest.raises(ConfigError, match=f"'{name}' of texts is no sum"):
            m.divergence_cost(DIVERGENCES[name](), language.log_ratio, language.mask, level)
        return
    cost = m.divergence_cost(DIVERGENCES[name](), language.log_ratio, language.mask, level)
    to_go = cost.flip(1).cumsum(1).flip(1)
    policy = language.gradient((language.log_prob[language.index] * to_go).sum(1).mean())
    assert not cost.requires_grad and torch.allclose(policy, language.gradient(language.exact(name)))


def test_k1_sums_to_the_log_ratio():
    mask, ratio = right_padded(), random(B, T)
    tokens, sequence = (m.divergence_cost(KL(), ratio, mask, level) for level in ("token", "sequence"))
    assert torch.equal(tokens, torch.where(mask, ratio, 0.0)) and torch.allclose(tokens.sum(1), sequence.sum(1))
    assert torch.equal(m.divergence_cost(NoDivergence(), ratio, mask, "token"), torch.zeros(B, T).double())


@pytest.mark.parametrize("name", ["kl", "chi2", "sqrt_chi2"])
@pytest.mark.parametrize("grad", ["pathwise", "reinforce"])
def test_the_divergence_of_tokens_in_the_loss(language, name, grad):
    """Of the next token's distribution, the mean over the visited states: those of `between`, at frozen states."""
    ratio, mask = language.log_ratio, language.mask
    loss = m.divergence_loss(DIVERGENCES[name](), ratio, mask, "token", grad)
    second = language.parameters[1]
    base = language.base.view(WORDS, WORDS, LENGTH)[..., 1]
    visits = language.log_prob.detach().view(WORDS, WORDS, LENGTH)[:, 0, 0].exp() / LENGTH
    log_pi = second.log_softmax(-1)
    own = {
        "kl": (visits.unsqueeze(1) * log_pi.exp() * (log_pi - base)).sum(),
        "chi2": (visits * ((2 * log_pi - base).exp().sum(1) - 1)).sum(),
    }
    forward = (visits.unsqueeze(1) * base.exp() * (base - log_pi)).sum()

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, second, retain_graph=True)[0]

    if grad == "reinforce":
        expected = gradient(own["kl" if name == "kl" else "chi2"])
    else:
        expected = gradient(forward) if name == "kl" else gradient(own["chi2"]) / 2 + gradient(forward)
    if name == "sqrt_chi2":
        expected = expected / (2 * loss.item())
    assert torch.allclose(gradient(loss), expected)


def test_divergence_metrics():
    l = torch.tensor([-12, -1, 0, 0.5, 11], dtype=torch.float64)  # noqa: E741
    mask = torch.tensor([[True, True, False]] * 5 + [[False] * 3])  # the last is a text that does not count
    ratio = torch.stack([l / 4, 3 * l / 4, torch.full((5,), math.nan)], 1)
    found = m.divergence_metrics(torch.cat([ratio, torch.full((1, 3), math.nan)]), mask)
    assert found == pytest.approx({
        "kl": -0.3, "kl_k3": 13215.444442722006, "chi2": 22025.93408201591, "sqrt_chi2": 148.41136776546435,
        "ratio_clipfrac": 0.2, "inverse_ratio_clipfrac": 0.2,
    })  # fmt: skip
    small = m.divergence_metrics(torch.tensor([[-0.4], [0.1], [0.3]]), torch.ones(3, 1, dtype=torch.bool))
    assert small["chi2"] == pytest.approx(0.08761004, abs=1e-7)
    assert small["sqrt_chi2"] == pytest.approx(0.29598993, abs=1e-7)


def test_words_that_there_are_not():
    ratio, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ConfigError, match="'sequnce' is not a value of level"):
        m.divergence_loss(KL(), ratio, mask, level="sequnce")
    with pytest.raises(ConfigError, match="grad"):
        m.divergence_loss(KL(), ratio, mask, grad="path")
    with pytest.raises(ConfigError, match="level"):
        m.divergence_cost(KL(), ratio, mask, level="word")


OTHERS = [c for c in subclasses(Divergence) if c.__module__.startswith("rhtool.") and option_name(c) not in DIVERGENCES]


@pytest.mark.parametrize("cls", OTHERS, ids=option_name)
def test_divergences_without_a_score_function_say_so(cls):
    ratio, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    for ask in (
        lambda: m.divergence_cost(cls(), ratio, mask),
        lambda: m.divergence_loss(cls(), ratio, mask, grad="reinforce"),
    ):
        with pytest.raises(RhtoolError, match=option_name(cls)):
            ask()


# --- from score to reward -------------------------------------------------------------------------------------------


def test_running_moments_are_those_of_all_scores():
    scores, moments = random(50, seed=3) * 4 + 100, m.RunningMoments()
    assert math.isnan(moments.std)
    for part in scores.split([1, 7, 0, 30, 12]):
        moments.add(part)
    moments.add(torch.tensor([math.nan]))
    assert moments.count == 50 and moments.mean == pytest.approx(scores.mean().item())
    assert moments.std == pytest.approx(scores.std().item())
    again = m.RunningMoments()
    again.set_state(json.loads(json.dumps(moments.get_state())))
    assert again.get_state() == moments.get_state() and again.std == moments.std


def test_equal_scores_have_no_deviation():
    moments = m.RunningMoments()
    moments.add(torch.full((3,), 0.1))
    moments.add(torch.full((4,), 0.1))
    assert moments.std == 0


def shaped(scale: str, *batches: list[float], **options) -> list[list[float]]:
    shape = m.ScoreShaping(scale=scale, **options)
    done = [torch.ones(len(b), dtype=torch.bool) for b in batches]
    return [shape(torch.tensor(b, dtype=torch.float64), d).tolist() for b, d in zip(batches, done, strict=True)]


def test_scales_of_scores():
    first, second = [1.0, 2.0, 4.0], [3.0, 0.0]
    std_first, both = torch.tensor(first).double().std().item(), torch.tensor(first + second).double()
    std, average = both.std().item(), both.mean().item()
    assert shaped("none", first, second) == [first, second]
    assert shaped("running", first, second)[1] == pytest.approx([x / std for x in second])
    assert shaped("norm", first, second)[1] == pytest.approx([(x - average) / std for x in second])
    assert shaped("ref", first, second)[1] == pytest.approx([x / std_first for x in second])
    for scale in ("running", "ref"):
        assert shaped(scale, first)[0] == pytest.approx([x / std_first for x in first])
        assert shaped(scale, [5.0], [5.0]) == [[5.0], [5.0]]  # no deviation yet, then none
    assert shaped("norm", [5.0, 5.0]) == [[0.0, 0.0]]


def test_the_order_of_shaping():
    shape = m.ScoreShaping(clip=2.0, baseline=0.5, missing_eos_penalty=1.0)
    rewards = shape(torch.tensor([9.0, -9.0, 1.0, math.nan]), torch.tensor([True, False, False, True]))
    assert rewards[:3].tolist() == [1.5, -3.5, -0.5] and rewards[3].isnan()


def test_shaping_resumes_and_evaluates_without_learning():
    scores, done = [random(6, seed=i) for i in range(3)], torch.ones(6, dtype=torch.bool)
    for scale in ("running", "norm", "ref"):
        whole, half = m.ScoreShaping(scale), m.ScoreShaping(scale)
        for x in scores[:2]:
            whole(x, done)
            half(x, done)
        half(scores[2] * 100, done, fit=False)
        again = m.ScoreShaping(scale)
        again.set_state(json.loads(json.dumps(half.get_state())))
        assert torch.equal(again(scores[2], done), whole(scores[2], done))


def test_shapings_that_there_are_not():
    with pytest.raises(ConfigError, match="did you mean 'running'"):
        m.ScoreShaping(scale="runing")
    with pytest.raises(ConfigError, match="clip"):
        m.ScoreShaping(clip=0.0)


# --- coefficients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kl, value", [(12.0, 0.200064), (3.0, 0.199936), (6.0, 0.2), (6.6, 0.200032), (1e9, 0.200064), (-1e9, 0.199936)]
)
def test_the_adaptive_coefficient(kl, value):
    coeff = m.AdaptiveCoeff(0.2, target=6.0, horizon=10_000)
    coeff.update(kl, 16)
    assert coeff.value == pytest.approx(value, abs=1e-12)
    again = m.AdaptiveCoeff(1.0)
    again.set_state(json.loads(json.dumps(coeff.get_state())))
    assert again.value == coeff.value


def test_the_fixed_coefficient():
    coeff = m.FixedCoeff(0.05)
    coeff.update(100.0, 16)
    assert coeff.value == 0.05 and coeff.get_state() == {"value": 0.05}


def test_coefficients_that_cannot_be_steered():
    with pytest.raises(ConfigError, match="target"):
        m.AdaptiveCoeff(0.1, target=0.0)
    coeff = m.AdaptiveCoeff(0.1, horizon=100)
    with pytest.raises(ConfigError, match="horizon"):
        coeff.update(1.0, 500)
    with pytest.raises(RhtoolError, match="nan"):
        coeff.update(math.nan, 1)
    assert coeff.value == 0.1
