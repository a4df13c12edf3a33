"""Limits of costs, against all architectures of a space."""

import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import toy
from ml_collections import ConfigDict

from configs import gaea_nb201_small
from wpl_jax.common.settings import SettingError
from wpl_jax.engine.learner import Learner
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.jobs.search_config import make_search
from wpl_jax.spaces.costs import Costs, Latency
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.strategies.differentiable import Differentiable
from wpl_jax.strategies.enas import Enas
from wpl_jax.strategies.limits import NO_LIMITS, Limits, LimitSettings, find
from wpl_jax.strategies.nao import Nao
from wpl_jax.strategies.nao_networks import Networks
from wpl_jax.strategies.path_importance import PathImportance
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.rewards import MnasNet, TaskReward
from wpl_jax.strategies.samplers import Classes, Fair
from wpl_jax.strategies.strategy import Candidates, Strategy
from wpl_jax.supernet import Architecture, Decision, Space

SPACE = NasBench201((8, 8, 2), 3, channels=4, cells=1, exclude_none=True)
COUNT = len(SPACE.operations)
EVERY = np.array(list(itertools.product(range(COUNT), repeat=6)), np.int32)
MOST = 61_000
DRAWS = 4000


@functools.cache
def costs_of_every():
    return Costs(SPACE).of_choices(EVERY)


def number(choices):
    """Of architectures, in the order of ``EVERY``."""
    return np.ravel_multi_index(np.asarray(choices).T, (COUNT,) * 6)


@functools.cache
def limits(most=MOST, draws=100):
    return find(Costs(SPACE), LimitSettings(multiply_adds=most, draws=draws))


def assert_within(choices, most=MOST):
    found = costs_of_every()["multiply_adds"][number(choices)]
    assert found.max() <= most, found.max()


@functools.partial(jax.jit, static_argnums=(0, 1))
def keep(limits, draws):
    keys = jax.random.split(jax.random.key(1), draws)
    return jax.vmap(functools.partial(limits.keep, SPACE.sample))(keys)


@pytest.mark.slow
def test_draws_are_uniform_within_the_limits():
    kept = limits()
    allowed = costs_of_every()["multiply_adds"] <= MOST
    share = allowed.mean()
    assert 0.05 < share < 0.5
    np.testing.assert_allclose(kept.share, share, atol=4 * np.sqrt(share / 2000))
    counts = np.bincount(number(keep(kept, DRAWS)), minlength=len(EVERY))
    assert counts[~allowed].sum() == 0
    # Of each first operation, as many as there are architectures.
    expected = np.bincount(EVERY[allowed, 0], minlength=COUNT)
    found = np.bincount(EVERY[:, 0], counts, COUNT)
    expected = expected * DRAWS / expected.sum()
    assert scipy.stats.chisquare(found, expected).pvalue > 1e-4


def test_what_is_within_is_the_first_draw():
    kept, keys = limits(), jax.random.split(jax.random.key(1), DRAWS)
    first = np.asarray(jax.jit(jax.vmap(SPACE.sample))(keys))
    allowed = costs_of_every()["multiply_adds"][number(first)] <= MOST
    np.testing.assert_array_equal(
        np.asarray(keep(kept, DRAWS))[allowed], first[allowed]
    )
    np.testing.assert_array_equal(keep(NO_LIMITS, DRAWS), first)


@pytest.mark.slow
def test_without_a_draw_that_fits_it_is_moved_to_within_the_limits():
    every = costs_of_every()["multiply_adds"]
    cheap = np.sort(np.unique(every))[1]  # The cheapest with one convolution.
    tight = limits(float(cheap), draws=1)
    choices = np.asarray(keep(tight, 500))
    assert_within(choices, cheap)
    # Some of the first draws are not moved all the way to the known architecture.
    assert len(np.unique(number(choices))) > 10


@pytest.mark.parametrize("name", ["parameters", "multiply_adds"])
def test_a_limit_below_the_cheapest_architecture_is_refused(name):
    least = costs_of_every()[name].min()
    for beyond in (0.99, 0.5):
        with pytest.raises(SettingError, match=rf"{name} is .* at least {least:,.0f}"):
            find(Costs(SPACE), LimitSettings(**{name: least * beyond}))
    found = find(Costs(SPACE), LimitSettings(**{name: least}))
    assert costs_of_every()[name][number([found.known])[0]] == least


@pytest.mark.slow
def test_the_cheapest_micro_cell_is_a_chain_without_convolutions():
    """Its output has one node: others would each cost a product."""
    space = MicroCell((8, 8, 1), 3, num_nodes=3, filters=4, layers=3)
    with pytest.raises(SettingError) as raised:
        find(Costs(space), LimitSettings(multiply_adds=1))
    fixed = sum(p.multiply_adds for p in space.parts if "/" not in p.name)
    stages = {p.name: p.multiply_adds for p in space.parts}
    cells = sum(
        stages[f"stage_{s}/inputs"] + n * stages[f"stage_{s}/output"]
        for s, n in enumerate((1, 2, 2))
    )
    assert f"at least {fixed + cells:,}" in raised.value.expected


def test_limits_that_nothing_keeps_together_are_refused():
    class Opposed(Costs):
        """Every choice costs ``c`` of one and ``18 - c`` of the other."""

        def __call__(self, architecture):
            total = jnp.sum(architecture.choice).astype(jnp.float32)
            return {"parameters": total, "multiply_adds": 18 - total}

    with pytest.raises(SettingError, match="keep together: the cheapest"):
        find(Opposed(SPACE), LimitSettings(parameters=8, multiply_adds=8))
    found = find(Opposed(SPACE), LimitSettings(parameters=9, multiply_adds=9))
    assert sum(found.known) == 9


def test_a_cost_that_the_space_does_not_count_is_refused():
    with pytest.raises(SettingError, match=r"latency_ms is 2\.0, expected None, for"):
        find(Costs(SPACE), LimitSettings(latency_ms=2))
    with pytest.raises(SettingError, match="the space toy counts parameters alone"):
        find(Costs(toy.ToySpace()), LimitSettings(multiply_adds=2))


def test_latency_is_the_sum_over_the_parts():
    parts = tuple(0.1 * (i + 1) for i in range(len(SPACE.parts)))
    costs = Costs(SPACE, Latency(5.0, parts))
    choice = jnp.array([0, 1, 2, 3, 1, 1])
    names = [part.name for part in SPACE.parts]
    expected = 5.0
    for stage in range(3):
        for operation in np.asarray(choice):
            name = f"stage_{stage}/{SPACE.operations[operation]}"
            expected += parts[names.index(name)]
    for name in ("stem", "reduction_1", "reduction_2", "classifier"):
        expected += parts[names.index(name)]
    found = costs(Architecture(choice))["latency_ms"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert set(costs.names) == {"parameters", "multiply_adds", "latency_ms"}
    kept = find(costs, LimitSettings(latency_ms=float(expected)))
    assert bool(kept.allows(choice))
    # More than any other child may take:
    slow = np.argmax(costs.of_choices(EVERY)["latency_ms"])
    assert not bool(kept.allows(jnp.asarray(EVERY[slow])))


NETWORKS = Networks(embedding=4, hidden=4, layers=0, batch_size=4)
STRATEGIES = {
    "random": functools.partial(RandomSearch, SPACE),
    "classes": functools.partial(RandomSearch, SPACE, sampler=Classes()),
    "enas": functools.partial(Enas, SPACE, hidden=4),
    "pada": functools.partial(PathImportance, SPACE),
    "nao": functools.partial(
        Nao, SPACE, pool=20, every=1, updates=2, seeds=5, new=5, random=5,
        networks=NETWORKS,
    ),
}  # fmt: skip


@pytest.mark.slow_except("enas")
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_proposal_and_candidate_is_within(name):
    strategy = STRATEGIES[name](limits=limits())

    @jax.jit
    def proposed(key):
        state = strategy.begin_epoch(strategy.init(key), jnp.int32(0))
        keys = jax.random.split(key, 200)
        several = strategy.propose_several(state, keys).choice
        one = strategy.propose(state, key).choice[None]
        finalists = strategy.propose_finalists(state, keys).choice
        return jnp.concatenate([several, one, finalists])

    choices = np.asarray(proposed(jax.random.key(3)))
    assert_within(choices)
    assert len(np.unique(number(choices))) > 10


@pytest.mark.slow
def test_the_pool_of_nao_stays_within():
    strategy = STRATEGIES["nao"](limits=limits())

    def rewards(keys, choices, step):
        return 0.1 + jnp.mean(choices == 3, 1)  # 3x3 convolutions, the dearest

    @jax.jit
    def learn(state, key):
        return strategy.learn(state, key, rewards, jnp.int32(0), 2)[0]

    state = jax.jit(strategy.init)(jax.random.key(0))
    for round_ in range(3):
        state = learn(state, jax.random.key(round_))
    pool = state.pool
    assert int(pool.born.max()) > 0
    assert_within(np.asarray(pool.choices)[np.asarray(pool.filled)])


def test_children_that_belong_together_cannot_be_limited():
    with pytest.raises(
        SettingError, match="sampler is 'fair', expected another one with"
    ):
        RandomSearch(SPACE, sampler=Fair(), limits=limits())


def test_what_is_beyond_has_no_reward_when_a_controller_learns():
    class Half(Limits):
        def allows(self, choice):
            return choice[0] == 1

    @dataclasses.dataclass(frozen=True)
    class Listening(Enas):
        def learn(self, state, key, rewards_fn, first, steps):
            choices = jnp.array([[0, 0], [1, 0], [1, 1], [0, 1]])
            return rewards_fn(jax.random.split(key, 4), choices, first)

    task = toy.ToyTask()
    params, data = task.space.init(jax.random.key(0)), toy.make_data()
    found = []
    for kept in (NO_LIMITS, Half()):
        strategy = Listening(task.space, limits=kept)
        learner = Learner(task, strategy, TaskReward())
        arguments = (params, data, jax.random.key(1), jnp.int32(0), jnp.int32(0))
        found.append(np.asarray(learner.learn((), *arguments, steps=1)))
    assert np.all(found[0] > 0)
    np.testing.assert_array_equal(found[1], found[0] * [0, 1, 1, 0])


def log_probability(weights, choices):
    return np.sum(np.log(weights[np.arange(6), choices]), -1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_mixture_becomes_a_child_within_that_is_probable(seed):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(COUNT), 6).astype(np.float32)
    plain = SPACE.discretize(jnp.asarray(weights))
    for most in (*np.geomspace(40_000, 120_000, 4), 1e9):
        kept = limits(float(most))
        found = np.asarray(kept.discretize(SPACE, jnp.asarray(weights)))
        assert_within(found[None], most)
        allowed = EVERY[costs_of_every()["multiply_adds"] <= most]
        best = log_probability(weights, allowed).max()
        # It is on the lower convex hull of costs and probabilities.
        assert log_probability(weights, found) > best - 2.5
        if np.any(np.all(allowed == np.asarray(plain), 1)):
            np.testing.assert_array_equal(found, plain)


@dataclasses.dataclass(frozen=True)
class Sized(Space):
    """Decisions of three and of two choices, each with a number of parameters."""

    name = "sized"
    mixes = True
    table = np.array([[200, 0, 0], [100, 96, 0], [0, 0, 0]], np.float32)

    @property
    def decisions(self):
        return tuple(Decision(f"of_{n}", tuple("xyz"[:n])) for n in (3, 2, 2))

    def costs(self, architecture):
        weights = architecture.weights
        if weights is None:
            weights = jax.nn.one_hot(architecture.choice, 3)
        return {"parameters": jnp.sum(weights * self.table)}


def test_a_mixture_of_decisions_of_several_sizes_becomes_a_child_within():
    """The second choice of the second one costs hardly less than the first."""
    weights = jnp.array([[0.8, 0.15, 0.05], [0.999, 0.001, 0], [0.3, 0.7, 0]])
    kept = Limits(Costs(Sized()), (("parameters", 99.0),), known=(2, 1, 0))
    np.testing.assert_array_equal(kept.discretize(Sized(), weights), [1, 1, 1])


def differentiable(**changes):
    return Differentiable(SPACE, **changes)


def test_expected_costs_beyond_the_limit_are_part_of_the_loss():
    """A loss of 0 leaves the term of the costs, here by finite differences."""
    strategy = differentiable(limits=dataclasses.replace(limits(), weight=3.0))
    state = strategy.init(jax.random.key(0))

    def term(theta):
        p = np.exp(theta) / np.exp(theta).sum(1, keepdims=True)
        uses = 1.0 * p.sum(0)  # of each stage, expected
        total = 0.0
        for part in SPACE.parts:
            operation = part.name.partition("/")[2]
            factor = uses[SPACE.operations.index(operation)] if operation else 1
            total += factor * part.multiply_adds
        return 3 * max(0, np.log(total / MOST))

    theta = np.asarray(state.theta, float)
    assert term(theta) > 0
    expected = np.zeros_like(theta)
    for place in np.ndindex(theta.shape):
        step = np.zeros_like(theta)
        step[place] = 1e-4
        expected[place] = (term(theta + step) - term(theta - step)) / 2e-4
    seen = []

    def slope(of, theta, split, **options):
        return jnp.float32(0), jnp.zeros_like(theta)

    class Recording(type(strategy.optimizer)):
        def transform(self):
            return types.SimpleNamespace(update=self.update)

        def update(self, gradient, state, theta):
            seen.append(gradient)
            return jnp.zeros_like(theta), state

    recording = dataclasses.replace(strategy, optimizer=Recording())

    @jax.jit
    def step(state):
        recording.step(state, None, slope, jax.random.key(0))
        return seen.pop()

    np.testing.assert_allclose(step(state), expected, rtol=1e-3, atol=1e-5)


def test_the_finalist_of_a_mixture_is_within():
    strategy = differentiable(limits=limits())
    state = strategy.init(jax.random.key(0))
    dear = SPACE.operations.index("nor_conv_3x3")
    state = state._replace(theta=state.theta.at[:, dear].add(2.0))
    finalist = strategy.finalists(state, jax.random.key(0)).choice
    assert_within(np.asarray(finalist)[None])
    np.testing.assert_array_equal(strategy.watch(state)["derived"], finalist)


def test_a_mixture_of_a_space_without_parts_has_no_expected_costs():
    class Plain(NasBench201):
        parts = ()

    space = Plain((8, 8, 2), 3, channels=4, cells=1, exclude_none=True)
    kept = find(Costs(space), LimitSettings(parameters=1e6))
    reward = MnasNet(1e6, "parameters", costs=Costs(space))
    for changes in ({"limits": kept}, {"reward": reward}):
        with pytest.raises(UserError, match="does not list what its children consist"):
            Differentiable(space, **changes)


def small_config():
    config = gaea_nb201_small.get_config("digits")
    config.space.nasbench201.channels = 4
    config.strategy.name = "random"
    config.strategy.random.candidates = ConfigDict(
        {"proposed": 4, "screen_batches": 1, "keep": 2, "judge_batches": 1}
    )
    return config


def test_limits_of_a_configuration_reach_the_strategy():
    config = small_config()
    config.limits.parameters = 12_000.0
    config.limits.draws = 7
    search, _, about = make_search(config)
    assert search.strategy.limits.most == (("parameters", 12_000.0),)
    assert search.strategy.limits.draws == 7
    assert "Limits: at most 12,000 parameters. " in about
    assert make_search(small_config())[0].strategy.limits is NO_LIMITS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limits.parameters": 10.0}, "config.limits.parameters is 10.0, expected at"),
        (
            {"limits.latency_ms": 10.0},
            "config.limits.latency_ms is 10.0, expected None",
        ),
        ({"limits.draws": 0}, "config.limits.draws is 0"),
        (
            {"limits.parameters": 1e6, "strategy.name": f"{__name__}:Unlimited"},
            "config.limits.parameters is 1000000.0, expected None, as the strategy",
        ),
    ],
)
def test_wrong_limits_are_refused_before_anything_is_compiled(changes, said):
    config = small_config()
    config.strategy.Unlimited = ConfigDict()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=said):
        make_search(config)


@dataclasses.dataclass(frozen=True)
class Unlimited(Strategy):
    """A strategy that knows no limits."""

    space: NasBench201
    candidates: Candidates = Candidates(4, 1, 2, 1)

    def propose(self, state, key):
        return Architecture(self.space.sample(key))


def test_later_draws_have_keys_that_the_first_one_does_not_split():
    tight = limits(float(costs_of_every()["multiply_adds"].min()), draws=3)
    key, seen = jax.random.key(5), []

    def draw(own):
        jax.debug.callback(
            lambda k: seen.append(tuple(k.tolist())), jax.random.key_data(own)
        )
        return SPACE.sample(own)

    tight.keep(draw, key)
    jax.effects_barrier()
    subkeys = jax.random.key_data(jax.random.split(key, 20))
    assert len(seen) == len(set(seen)) == 3
    assert not set(seen) & {tuple(k) for k in subkeys.tolist()}
