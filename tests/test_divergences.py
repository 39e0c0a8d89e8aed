"""Every divergence in every form it has, against its definition as a sum or an integral.

The tests run over all subclasses of `Divergence`: a new one needs its definition in `definition`, or a place in
`WITHOUT`.
"""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rhtool.config import CONF, subclasses
from rhtool.divergences import KL, TV, Chi2, Divergence, SqrtChi2, Wasserstein, chi2_finite
from rhtool.envs.base import Env
from rhtool.errors import RhtoolError
from rhtool.schema import check_choices, option_name

torch = pytest.importorskip("torch")
from torch.distributions import Beta, Categorical, Independent, Normal  # noqa: E402

ALL = {option_name(cls): cls for cls in subclasses(Divergence) if cls.__module__.startswith("rhtool.divergences.")}
ROBUST = {"max_min", "linear_max_min"}  # functions of the proxy too: tests/test_robust.py
WITHOUT = {"base_confidence", *ROBUST}  # no D(p || q); the first is a rule for penalties
PROPER = sorted(set(ALL) - WITHOUT - {"none"})
LACKING = {"tv": ("Beta",), "wasserstein": ("Beta",), "gail": ("Beta", "Normal")}
"""families between which there is no closed form"""
ORDER = [0.0, 1e-3, 0.1, 0.5, 3.0, 100.0, 1e3]


def definition(name: str, log_p: np.ndarray, log_q: np.ndarray, weights: np.ndarray | float = 1.0) -> float:
    """D(p || q) from log-probabilities, or log-densities and quadrature weights; the metric of Wasserstein is 0-1."""
    p, q = np.exp(log_p), np.exp(log_q)
    if name == "none":
        return 0.0
    if name == "kl":
        return float((weights * p * (log_p - log_q)).sum())
    if name in ("chi2", "sqrt_chi2"):
        chi2 = float((weights * np.exp(2 * log_p - log_q)).sum()) - 1
        return chi2 if name == "chi2" else math.sqrt(chi2)
    if name in ("tv", "wasserstein"):
        return float((weights * abs(p - q)).sum() / 2)
    if name == "gail":
        log_m = np.logaddexp(log_p, log_q) - math.log(2)
        return definition("kl", log_p, log_m, weights) + definition("kl", log_q, log_m, weights)
    raise KeyError(f"write down the definition of '{name}' here")


def counts(seed: int, cells: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Two tables of counts, 1000 in each: samples that are exactly distributed as counts / 1000."""
    rng = np.random.default_rng(seed)
    mu, nu = (rng.multinomial(1000 - cells, rng.dirichlet(np.ones(cells))) + 1 for _ in range(2))
    return mu, nu


def samples(seed: int) -> tuple[np.ndarray, np.ndarray, torch.Tensor, torch.Tensor]:
    """mu, nu, and the exact log-ratios of 1000 samples of mu and of 1000 of nu."""
    mu, nu = counts(seed)
    log_ratio = np.log(mu / nu)
    return mu / 1000, nu / 1000, *(torch.tensor(np.repeat(log_ratio, n)) for n in (mu, nu))


# --- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_an_option_file_holds_the_defaults_of_its_class(name):
    numbers = yaml.safe_load((CONF / "divergence" / f"{name}.yaml").read_text())
    assert numbers.pop("defaults") == [{"/schema/divergence@_here_": name}, "_self_"]
    numbers = {key: float(value) if isinstance(value, str) else value for key, value in numbers.items()}
    assert OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ALL[name]), numbers)) == ALL[name]()


def test_every_option_file_has_a_class():
    assert {file.stem for file in (CONF / "divergence").glob("*.yaml")} == set(ALL)


def test_unit_of_the_coefficient():
    env = Env(reward_mean=3.0, reward_std=0.5)
    assert {name: cls().scale(env) for name, cls in ALL.items()} == {name: 0.5 for name in ALL} | {"kl": 3.0}


def test_which_options_train_a_discriminator():
    assert {name for name, cls in ALL.items() if cls().needs_base_samples} == {*PROPER, *ROBUST}
    trained = {(name, over) for name, cls in ALL.items() for over in ("state_action", "state", "action")
               if cls(over=over).needs_discriminator}  # fmt: skip
    assert trained == {(name, over) for name in [*PROPER, "max_min"] for over in ("state_action", "state")}


def test_base_confidence_is_over_states_only():
    with pytest.raises(RhtoolError):
        check_choices(ALL["base_confidence"](over="action"))


def test_the_module_is_light():
    code = "import sys, rhtool.divergences, rhtool.hacking; print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# --- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(ALL) - WITHOUT))
@pytest.mark.parametrize("seed", range(5))
def test_exact_is_the_definition(name, seed):
    mu, nu = (x.reshape(2, 3) / 1000 for x in counts(seed))
    assert ALL[name]().exact(mu, nu) == pytest.approx(definition(name, np.log(mu), np.log(nu)), rel=1e-10)
    assert ALL[name]().exact(mu, mu) == 0


def test_exact_where_a_cell_is_empty():
    never, always = np.array([0.0, 1.0]), np.array([0.5, 0.5])
    expected = {"kl": math.log(2), "chi2": 1.0, "sqrt_chi2": 1.0, "tv": 0.5, "wasserstein": 0.5, "none": 0.0}
    expected["gail"] = math.log(4 / 3) + math.log(2) / 2 + math.log(2 / 3) / 2
    assert {name: ALL[name]().exact(never, always) for name in expected} == pytest.approx(expected)
    backwards = {name: ALL[name]().exact(always, never) for name in expected}
    assert backwards == pytest.approx(expected | {"kl": math.inf, "chi2": math.inf, "sqrt_chi2": math.inf})


@pytest.mark.parametrize("name", sorted(set(ALL) - WITHOUT))
def test_exact_refuses_what_is_no_distribution(name):
    good = np.array([0.5, 0.5])
    for bad in (np.array([0.5, 0.6]), np.array([1.5, -0.5]), np.array([0.5, np.nan]), np.full(3, 1 / 3)):
        with pytest.raises(ValueError):
            ALL[name]().exact(bad, good)


@pytest.mark.parametrize("seed", range(3))
def test_wasserstein_with_a_cost_matrix(seed):
    mu, nu = (x / 1000 for x in counts(seed))
    place = np.random.default_rng(seed).normal(size=len(mu))
    distance = abs(place[:, None] - place)
    expected = scipy.stats.wasserstein_distance(place, place, mu, nu)
    assert Wasserstein().exact(mu, nu, distance) == pytest.approx(expected)
    assert Wasserstein().exact(mu, nu, 1.0 - np.eye(len(mu))) == pytest.approx(TV().exact(mu, nu))


def tables(cells: int = 5) -> st.SearchStrategy[np.ndarray]:
    weights = st.lists(st.floats(1e-4, 1), min_size=cells, max_size=cells)
    return weights.map(lambda w: np.array(w) / np.sum(w))


@settings(max_examples=200, deadline=None)
@given(tables(), tables())
def test_inequalities_between_divergences(mu, nu):
    kl, chi2, root, tv = (cls().exact(mu, nu) for cls in (KL, Chi2, SqrtChi2, TV))
    assert min(kl, chi2, root, tv) >= -1e-12 and tv <= 1
    assert root**2 == pytest.approx(chi2)
    assert kl <= math.log1p(chi2) + 1e-9
    assert tv <= math.sqrt(max(kl, 0) / 2) + 1e-9  # Pinsker
    assert 2 * tv <= root + 1e-9  # Cauchy and Schwarz
    assert TV().exact(nu, mu) == pytest.approx(tv)


# --- action distributions -----------------------------------------------------------------------------------


def random_pair(family: str, seed: int, batch: int = 8, dims: int = 0) -> tuple:
    """Parameters ((batch, dims) each, or (batch,)) of p and of q, float64, chi2 finite and not near infinite."""
    rng = np.random.default_rng(seed)
    shape = (batch, dims) if dims else (batch,)
    if family == "Categorical":
        return (rng.normal(size=(batch, 4)),), (rng.normal(size=(batch, 4)),)
    if family == "Normal":
        s2 = rng.uniform(0.5, 1.5, shape)
        return (rng.normal(size=shape), s2 * rng.uniform(0.5, 1.2, shape)), (rng.normal(size=shape), s2)
    q = [rng.uniform(1.0, 5.0, shape) for _ in range(2)]
    return tuple(x * rng.uniform(0.9, 2.0, shape) for x in q), tuple(q)


def build(family: str, parameters, event: bool = False):
    tensors = [torch.as_tensor(x) for x in parameters]
    dist = (
        Categorical(logits=tensors[0])
        if family == "Categorical"
        else {"Normal": Normal, "Beta": Beta}[family](*tensors)
    )
    return Independent(dist, 1) if event else dist


def log_density(family: str, parameters, x: np.ndarray) -> np.ndarray:
    return scipy.stats.norm.logpdf(x, *parameters) if family == "Normal" else scipy.stats.beta.logpdf(x, *parameters)


def quadrature(family: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights over the distributions' support."""
    if family == "Normal":
        x = np.linspace(-25, 25, n)
        return x, np.full(n, x[1] - x[0])
    u, w = np.polynomial.legendre.leggauss(n)
    u, w = (u + 1) / 2, w / 2
    return u**2 * (3 - 2 * u), w * 6 * u * (1 - u)  # more nodes at the ends, where densities start like powers


def floored(name: str, value: float) -> float:
    """`between` bounds sqrt_chi2 from below by its floor."""
    return max(value, SqrtChi2().floor ** 0.5) if name == "sqrt_chi2" else value


@pytest.mark.parametrize("name", sorted(set(ALL) - WITHOUT))
@pytest.mark.parametrize("family", ["Categorical", "Normal", "Beta"])
@pytest.mark.parametrize("seed", range(2))
def test_between_is_the_definition(name, family, seed):
    p, q = random_pair(family, seed)
    if family in LACKING.get(name, ()):
        with pytest.raises(RhtoolError, match=family):
            ALL[name]().between(build(family, p), build(family, q))
        return
    value = ALL[name]().between(build(family, p), build(family, q)).numpy()
    assert value.shape == (8,)
    assert chi2_finite(build(family, p), build(family, q)).all()
    for i, result in enumerate(value):
        if family == "Categorical":
            logs, weights = [scipy.special.log_softmax(x[0][i]) for x in (p, q)], 1.0
        else:
            x, weights = quadrature(family, 200_001 if family == "Normal" else 400)
            logs = [log_density(family, [y[i] for y in z], x) for z in (p, q)]
        if name == "wasserstein" and family == "Normal":
            u = (np.arange(100_000) + 0.5) / 100_000  # W2 on the line: the distance between quantile functions
            quantiles = [scipy.stats.norm.ppf(u, *(y[i] for y in z)) for z in (p, q)]
            expected = math.sqrt(np.mean((quantiles[0] - quantiles[1]) ** 2))
            assert result == pytest.approx(expected, rel=1e-3)
        else:
            assert result == pytest.approx(floored(name, definition(name, *logs, weights)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", PROPER)
@pytest.mark.parametrize("family", ["Normal", "Beta"])
def test_between_over_two_dimensions(name, family):
    p, q = random_pair(family, 0, batch=4, dims=2)
    dists = build(family, p, event=True), build(family, q, event=True)
    if name == "tv" or family in LACKING.get(name, ()):
        with pytest.raises(RhtoolError):
            ALL[name]().between(*dists)
        return
    value = ALL[name]().between(*dists)
    assert value.shape == (4,)
    if name == "wasserstein":
        lines = Wasserstein().between(build(family, p), build(family, q))  # W2^2 of products is a sum
        assert torch.allclose(value, lines.square().sum(-1).sqrt())
        return
    x, w = quadrature(family, 501 if family == "Normal" else 200)
    for i in range(4):
        logs = [sum(log_density(family, [y[i, k] for y in z], x).reshape((-1, 1)[:: 1 - 2 * k]) for k in range(2))
                for z in (p, q)]  # fmt: skip
        expected = definition(name, *logs, np.outer(w, w))
        assert value[i].item() == pytest.approx(floored(name, expected), rel=1e-4)


@pytest.mark.parametrize("name", sorted(set(ALL) - WITHOUT))
@pytest.mark.parametrize("family", ["Categorical", "Normal", "Beta"])
@pytest.mark.parametrize("event", [False, True])
def test_between_has_the_right_gradient(name, family, event):
    p, q = random_pair(family, 3, batch=3, dims=1 if event and family != "Categorical" else 0)
    leaves = [torch.tensor(x, requires_grad=True) for x in (*p, *q)]
    event = event and family != "Categorical"

    def value(*parameters):
        half = len(parameters) // 2
        dists = (build(family, x, event) for x in (parameters[:half], parameters[half:]))
        return ALL[name]().between(*dists)

    if family in LACKING.get(name, ()):
        with pytest.raises(RhtoolError):
            value(*leaves)
    else:
        assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize("name", PROPER)
@pytest.mark.parametrize("family", ["Categorical", "Normal"])
def test_between_equal_distributions_is_flat(name, family):
    """A policy starts at its base policy: the value is least there, and its gradient finite."""
    if family in LACKING.get(name, ()):
        pytest.skip("no closed form")
    p, _ = random_pair(family, 0)
    leaves = [torch.tensor(x, requires_grad=True) for x in p]
    value = ALL[name]().between(build(family, leaves), build(family, p))
    value.sum().backward()
    assert torch.allclose(value, torch.full((8,), floored(name, 0.0), dtype=value.dtype), atol=1e-9)
    assert all(torch.isfinite(x.grad).all() for x in leaves)


INFINITE = {
    "wider Gaussian": (
        Normal(torch.tensor([0.3, 0.1]), torch.tensor([2.0, 1.0])),
        Normal(torch.zeros(2), torch.ones(2)),
    ),
    "left Beta": (Beta(torch.tensor([1.0, 3.0]), torch.tensor(2.0)), Beta(torch.tensor([2.0, 3.0]), torch.tensor(2.5))),
    "right Beta": (
        Beta(torch.tensor(2.0), torch.tensor([1.0, 3.0])),
        Beta(torch.tensor(2.5), torch.tensor([4.0, 3.0])),
    ),
    "one dimension of two": (
        Independent(Normal(torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [1.0, 1.1]])), 1),
        Independent(Normal(torch.zeros(2, 2), torch.ones(2, 2)), 1),
    ),
    "rare action": (
        Categorical(logits=torch.tensor([[0.0, 0.0], [0.0, 1.0]])),
        Categorical(logits=torch.tensor([[0.0, -200.0], [0.0, 0.0]])),
    ),
    "overflow": (Normal(torch.tensor([50.0, 1.0]), torch.ones(2)), Normal(torch.zeros(2), torch.ones(2))),
}


@pytest.mark.parametrize("case", INFINITE)
def test_infinite_chi2_gives_way_to_the_kl(case):
    p, q = INFINITE[case]
    assert chi2_finite(p, q).tolist() == [False, True]
    kl, chi2, root = (cls().between(p, q) for cls in (KL, Chi2, SqrtChi2))
    assert torch.isfinite(kl).all() and chi2[0] == kl[0] and kl[0] > 0
    assert chi2[1] >= kl[1].expm1() - 1e-6  # KL <= log(1 + chi2)
    assert torch.allclose(root, chi2.clamp(min=1e-4).sqrt())


@pytest.mark.parametrize("cls", [Chi2, SqrtChi2])
def test_infinite_chi2_has_the_kls_gradient(cls):
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    base = Categorical(logits=torch.tensor([[0.0, -200.0], [0.0, 0.0]]))
    (chi2,) = torch.autograd.grad(Chi2().between(Categorical(logits=logits), base)[0], logits)
    (kl,) = torch.autograd.grad(KL().between(Categorical(logits=logits), base)[0], logits)
    assert torch.isfinite(chi2).all() and torch.allclose(chi2, kl) and kl[0].abs().sum() > 0
    scale = torch.tensor([3.0, 1.1], requires_grad=True)
    (slope,) = torch.autograd.grad(cls().between(Normal(0.0, scale), Normal(0.0, torch.ones(2))).sum(), scale)
    assert torch.isfinite(slope).all() and (slope > 0).all()


def test_a_huge_chi2_counts_as_infinite():
    """Adam squares gradients: one state of chi2 = e^64 would end a training in float32."""
    loc = torch.tensor([8.0], requires_grad=True)
    (slope,) = torch.autograd.grad(Chi2().between(Normal(loc, 1.0), Normal(torch.zeros(1), 1.0)).sum(), loc)
    assert slope.item() == pytest.approx(8.0)  # the KL's
    (slope,) = torch.autograd.grad(Chi2().between(Normal(loc / 2, 1.0), Normal(torch.zeros(1), 1.0)).sum(), loc)
    assert slope.item() == pytest.approx(4 * math.exp(16), rel=1e-5)


def test_chi2_of_sharp_betas_in_float32():
    """Differences of lgammas of thousands: float32 leaves no correct digit of a small chi2."""
    a1, b1, a2, b2 = 3010.0, 2000.0, 3000.0, 2010.0
    x, w = quadrature("Beta", 1000)
    logs = [scipy.stats.beta.logpdf(x, a, b) for a, b in ((a1, b1), (a2, b2))]
    value = Chi2().between(Beta(torch.tensor([a1]), torch.tensor([b1])), Beta(torch.tensor([a2]), torch.tensor([b2])))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(definition("chi2", *logs, w), rel=1e-4)


@pytest.mark.parametrize("name", PROPER)
def test_actions_that_both_policies_mask(name):
    """Logits of -inf on both sides are a smaller set of actions, in value and in gradient."""
    logits, base = torch.tensor([0.3, -1.0], requires_grad=True), torch.tensor([-0.5, 0.2])
    never = torch.tensor([-math.inf])
    masked = ALL[name]().between(
        Categorical(logits=torch.cat([logits, never])), Categorical(logits=torch.cat([base, never]))
    )
    bare = ALL[name]().between(Categorical(logits=logits), Categorical(logits=base))
    assert masked.item() == pytest.approx(bare.item())
    assert torch.allclose(*(torch.autograd.grad(x, logits)[0] for x in (masked, bare)))


@pytest.mark.parametrize("name", PROPER)
def test_between_unlike_distributions_says_so(name):
    with pytest.raises(RhtoolError, match="Normal and Beta"):
        ALL[name]().between(Normal(0.0, 1.0), Beta(torch.tensor(1.0), torch.tensor(1.0)))


# --- scores of a discriminator ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(PROPER) - {"wasserstein"}))
def test_the_best_discriminator(name):
    """Its scores are the log-ratio; for TV their sign is."""
    mu, nu = counts(1)
    index = [torch.tensor(np.repeat(np.arange(len(n)), n)) for n in (mu, nu)]
    scores = torch.zeros(len(mu), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [scores], max_iter=200, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = ALL[name]().discriminator_loss(scores[index[0]], scores[index[1]])
        loss.backward()
        return loss

    optimiser.step(closure)
    log_ratio = np.log(mu / nu)
    if name == "tv":
        assert np.array_equal(np.sign(scores.detach().numpy()), np.sign(log_ratio))
    else:
        assert scores.detach().numpy() == pytest.approx(log_ratio, abs=1e-5)


def test_wasserstein_discriminator():
    """With a score w x, mean inputs a apart and a gradient penalty g on either side, the best w is 1 + a / 4g."""
    x_current, x_base = torch.full((7, 1), 2.5), torch.full((5, 1), 1.0)
    w = torch.zeros((), requires_grad=True)
    with torch.no_grad():
        w += 0.5
    divergence = Wasserstein(gradient_penalty=0.75)
    optimiser = torch.optim.SGD([w], lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        loss = divergence.discriminator_loss(w * x_current[:, 0], w * x_base[:, 0])
        (loss + divergence.regulariser(lambda x: w * x[:, 0], x_current, x_base)).backward()
        optimiser.step()
    assert w.item() == pytest.approx(1 + 1.5 / (4 * 0.75), abs=1e-4)


def test_only_wasserstein_touches_the_discriminator():
    for name, cls in ALL.items():
        module = torch.nn.Linear(3, 1)
        before = [x.detach().clone() for x in module.parameters()]
        cls().after_update(module)
        clip = 0.01 if name == "wasserstein" else math.inf
        assert all(torch.equal(x, y.clamp(-clip, clip)) for x, y in zip(module.parameters(), before, strict=True))
        assert cls().regulariser(lambda x: x.sum(-1), torch.ones(2, 3), torch.ones(2, 3)).item() == 0
    assert Wasserstein(weight_clip=None).after_update(torch.nn.Linear(3, 1)) is None


@pytest.mark.parametrize("name", PROPER)
def test_a_side_without_transitions_counts_zero(name):
    d, nothing = torch.tensor([0.3, -2.0], requires_grad=True), torch.zeros(0)
    whole, (left, right) = (
        ALL[name]().discriminator_loss(d, d),
        (ALL[name]().discriminator_loss(*sides) for sides in ((d, nothing), (nothing, d))),
    )
    assert left.item() + right.item() == pytest.approx(whole.item(), abs=1e-6)
    left.backward()
    assert torch.isfinite(d.grad).all()


@pytest.mark.parametrize("name", ["kl", "chi2", "sqrt_chi2"])
@pytest.mark.parametrize("seed", range(3))
def test_steps_pay_the_divergence_on_average(name, seed):
    mu, nu, d, _ = samples(seed)
    divergence = ALL[name]() if name == "kl" else ALL[name](trim=0.0)
    exact = divergence.exact(mu, nu)
    assert divergence.penalty(d).mean().item() == pytest.approx(exact)
    assert divergence.estimate(d) == pytest.approx(exact)


@pytest.mark.parametrize("seed", range(3))
def test_estimates_from_both_sides(seed):
    mu, nu, d, d_base = samples(seed)
    gail = ALL["gail"]()
    assert gail.estimate(d, d_base=d_base) == pytest.approx(gail.exact(mu, nu))
    assert gail.estimate(d) == pytest.approx(KL().exact(mu, (mu + nu) / 2))
    tv = TV().exact(mu, nu)
    assert TV().estimate(d, d_base=d_base) == pytest.approx(tv)
    assert TV().estimate(d) == pytest.approx(mu[mu > nu].sum() - mu[mu < nu].sum())
    # In the 0-1 metric the best score of slope 1 is the indicator of where the policy is more often.
    best, best_base = 7.0 + (d > 0).double(), 7.0 + (d_base > 0).double()
    assert Wasserstein().estimate(best, d_base=best_base) == pytest.approx(tv)
    assert Wasserstein(center=True).penalty(best, d_base=best_base).mean().item() == pytest.approx(tv)
    assert torch.equal(Wasserstein().penalty(best), best)
    with pytest.raises(RhtoolError, match="d_base"):
        Wasserstein(center=True).penalty(best)


@pytest.mark.parametrize("n", [1, 2, 10, 99, 100, 199, 200, 5000])
def test_trimmed_mean(n):
    d = torch.tensor(np.random.default_rng(n).normal(1.0, 2.0, n))
    expected = scipy.stats.trim_mean(np.expm1(d.numpy()), 0.01)
    assert Chi2().trimmed(d).item() == pytest.approx(expected)
    assert Chi2().estimate(d, trimmed=True) == pytest.approx(expected)
    assert SqrtChi2().estimate(d, trimmed=True) == pytest.approx(math.sqrt(max(expected, 0)))
    normaliser = math.sqrt(expected) if expected > 0 else 1.0
    assert SqrtChi2().penalty(d).numpy() == pytest.approx(np.expm1(d.numpy()) / normaliser)


def test_a_trim_that_leaves_nothing_is_refused():
    with pytest.raises(RhtoolError, match="trim"):
        SqrtChi2(trim=0.5)


def test_outliers_do_not_decide_the_normaliser():
    d = torch.cat([torch.full((500,), 0.5), torch.tensor([25.0])])
    assert Chi2().estimate(d) > 1e7
    assert Chi2().estimate(d, trimmed=True) == pytest.approx(math.expm1(0.5))


@pytest.mark.parametrize("name", PROPER)
@pytest.mark.parametrize("n", [1, 2, 10, 99, 100])
def test_few_transitions_pay_too(name, n):
    """The paper's code loses the penalty of sqrt_chi2 below 100 transitions."""
    for seed in range(20):
        d = torch.tensor(np.random.default_rng(seed).normal(0.3, 1.0, n), dtype=torch.float32)
        penalty = ALL[name]().penalty(d)
        assert penalty.shape == (n,) and torch.isfinite(penalty).all() and (penalty != 0).all()
        assert math.isfinite(ALL[name]().estimate(d))


@pytest.mark.parametrize("name", PROPER)
def test_the_penalty_rises_with_the_score(name):
    d = torch.linspace(-4, 4, 300)
    rise = ALL[name]().penalty(d).diff()
    assert (rise >= 0).all() and rise.max() > 0


@pytest.mark.parametrize("name", PROPER)
def test_extreme_scores_stay_finite(name):
    extremes = torch.tensor([s * x for x in ORDER for s in (-1, 1)])
    for d in (extremes, extremes[-1:], extremes[-2:-1], extremes.repeat(100), torch.zeros(5), torch.full((3,), 1e-20)):
        assert torch.isfinite(ALL[name]().penalty(d)).all()
        assert math.isfinite(ALL[name]().estimate(d))
        assert torch.isfinite(ALL[name]().discriminator_loss(d, -d))


@pytest.mark.parametrize("name", PROPER)
def test_no_transitions_at_all(name):
    assert ALL[name]().penalty(torch.zeros(0)).shape == (0,)
    assert ALL[name]().estimate(torch.zeros(0)) == 0


def test_none_pays_nothing():
    assert torch.equal(ALL["none"]().penalty(torch.randn(7)), torch.zeros(7))


def test_base_confidence_pays_the_base_policys_entropy():
    probs = np.array([[0.5, 0.5], [0.9, 0.1]])
    penalty = ALL["base_confidence"]().penalty(torch.zeros(2), base=Categorical(torch.tensor(probs)))
    assert penalty.numpy() == pytest.approx([scipy.stats.entropy(p) for p in probs])
    assert ALL["base_confidence"]().estimate(torch.zeros(2), base=Categorical(torch.tensor(probs))) == pytest.approx(
        penalty.mean().item()
    )
    with pytest.raises(RhtoolError, match="base"):
        ALL["base_confidence"]().penalty(torch.zeros(2))


def test_forms_that_base_confidence_lacks():
    divergence, p = ALL["base_confidence"](), Categorical(torch.ones(2))
    for form in (lambda: divergence.between(p, p), lambda: divergence.sequence(torch.zeros(2)),
                 lambda: divergence.exact(np.ones(1), np.ones(1))):  # fmt: skip
        with pytest.raises(RhtoolError, match="base_confidence"):
            form()


# --- sequences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(ALL) - WITHOUT))
@pytest.mark.parametrize("seed", range(3))
def test_sequence_estimates_the_divergence(name, seed):
    mu, nu, log_ratio, _ = samples(seed)
    assert ALL[name]().sequence(log_ratio).item() == pytest.approx(ALL[name]().exact(mu, nu))


def test_sequence_has_the_values_of_the_papers_code():
    """Reference expressions of cassidylaidlaw/llm_optimization in float64, among them either side of the clip."""
    l = torch.tensor([-12, -1, 0, 0.5, 11], dtype=torch.float64)  # noqa: E741
    kl = [66066.39738442015, 0.7182818284590453, 0, 0.10653065971263342, 10.00001670170079]
    chi2 = [66077.39739056437, 1.0861612696304876, 0, 0.2552519304127616, 44050.931606315135]
    for i in range(5):
        assert KL().sequence(l[i : i + 1]).item() == pytest.approx(kl[i])
        assert Chi2().sequence(l[i : i + 1]).item() == pytest.approx(chi2[i])
    assert KL().sequence(l).item() == pytest.approx(13215.444442722006)
    assert Chi2().sequence(l).item() == pytest.approx(22025.93408201591)
    assert SqrtChi2().sequence(l).item() == pytest.approx(148.41136776546435)


@pytest.mark.parametrize("name", PROPER)
def test_sequence_is_smooth_and_finite(name):
    divergence = ALL[name]()
    inside = torch.tensor([0.7, -1.2, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(divergence.sequence, (inside,))
    for sign in (1, -1):
        edge = sign * torch.tensor([[10 - 1e-9], [10 + 1e-9]], dtype=torch.float64)
        edge.requires_grad_()
        below, above = (divergence.sequence(x) for x in edge)
        (slope,) = torch.autograd.grad(below + above, edge)
        assert below.item() == pytest.approx(above.item()) and slope[0].item() == pytest.approx(slope[1].item())
    far = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    value = divergence.sequence(far)
    value.backward()
    assert torch.isfinite(value) and value > 0 and torch.isfinite(far.grad).all()


def test_sequence_at_the_base_policy():
    """Nothing to push away from: no gradient, not an infinite one."""
    for name in PROPER:
        log_ratio = torch.zeros(4, requires_grad=True)
        value = ALL[name]().sequence(log_ratio)
        value.backward()
        assert value.item() == pytest.approx(floored(name, 0.0)) and torch.equal(log_ratio.grad, torch.zeros(4))


def test_gradients_that_sequence_follows():
    """Through the log-ratio alone KL has the gradient of KL(base || pi), chi2 half of its own and that one."""
    mu, nu = counts(2)
    logits = torch.tensor(np.log(mu / 1000), requires_grad=True)
    base = torch.tensor(np.log(nu / 1000))
    index = torch.tensor(np.repeat(np.arange(len(mu)), mu))

    def gradient(value):
        return torch.autograd.grad(value, logits)[0]

    def log_pi():
        return logits.log_softmax(-1)

    log_ratio = (log_pi() - base)[index]
    kl, chi2 = gradient(KL().sequence(log_ratio)), gradient(Chi2().sequence((log_pi() - base)[index]))
    forward = gradient((base.exp() * (base - log_pi())).sum())
    own = gradient((2 * log_pi() - base).exp().sum())
    assert torch.allclose(kl, forward) and torch.allclose(chi2, own / 2 + forward)


@pytest.mark.parametrize("name", ["kl", "chi2", "sqrt_chi2"])
def test_penalties_of_sequences_follow_the_divergence_itself(name):
    """Charged in the reward, E[grad log pi * penalty] is the divergence's gradient; for chi2 half of it."""
    mu, nu, log_ratio, _ = samples(4)
    logits = torch.tensor(np.log(mu), requires_grad=True)
    index = torch.tensor(np.repeat(np.arange(len(mu)), (mu * 1000).round().astype(int)))
    divergence = ALL[name]() if name == "kl" else ALL[name](trim=0.0)
    (policy,) = torch.autograd.grad((logits.log_softmax(-1)[index] * divergence.penalty(log_ratio)).mean(), logits)
    exact = ALL[name]().between(Categorical(logits=logits), Categorical(torch.tensor(nu)))
    (own,) = torch.autograd.grad(exact, logits)
    assert torch.allclose(policy, own / 2 if name == "chi2" else own)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_the_score_function_has_the_divergences_own_gradient(name, seed):
    """E[w grad log pi] is exactly that of D; divergences that lack the form say so."""
    if name not in ("none", "kl", "chi2", "sqrt_chi2"):
        with pytest.raises(RhtoolError, match=f"'{name}' has no score-function form"):
            ALL[name]().score_function(torch.zeros(2))
        return
    mu, nu, log_ratio, _ = samples(seed)
    index = torch.tensor(np.repeat(np.arange(len(mu)), (mu * 1000).round().astype(int)))
    logits = torch.tensor(np.log(mu), requires_grad=True)
    weights = ALL[name]().score_function(log_ratio.requires_grad_())
    assert weights.shape == log_ratio.shape and not weights.requires_grad
    (found,) = torch.autograd.grad((logits.log_softmax(-1)[index] * weights).mean(), logits)
    exact = ALL[name]().between(Categorical(logits=logits), Categorical(torch.tensor(nu))) + 0 * logits.sum()
    (own,) = torch.autograd.grad(exact, logits)
    assert torch.allclose(found, own, atol=1e-12)


@pytest.mark.parametrize("name", ["none", "kl", "chi2", "sqrt_chi2"])
def test_the_score_function_is_zero_at_the_base_policy_smooth_and_finite(name):
    divergence = ALL[name]()
    assert torch.equal(divergence.score_function(torch.zeros(3)), torch.zeros(3))
    below, above = (divergence.score_function(torch.tensor([x], dtype=torch.float64)) for x in (10 - 1e-9, 10 + 1e-9))
    assert below.item() == pytest.approx(above.item())
    assert torch.isfinite(divergence.score_function(torch.tensor([1e4, -1e4, 0.0]))).all()


def test_the_score_function_beyond_the_clip_follows_what_is_clipped():
    """f(l) + f'(l) - 1, f being e^l - 1 and its tangent; nothing where the root is at its floor."""
    l = torch.tensor([12.0], dtype=torch.float64)  # noqa: E741
    assert Chi2().score_function(l).item() == pytest.approx((math.e**10 * 3 - 1) + math.e**10 - 1)
    assert SqrtChi2().score_function(torch.tensor([0.009, -0.009])).eq(0).all()
    assert SqrtChi2().score_function(torch.tensor([0.011, -0.011])).ne(0).all()
