import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxai.dqn import priorities

DRAWS = 8192
sample = jax.jit(priorities.sample, static_argnums=2)
update = jax.jit(priorities.update)
set_slot = jax.jit(priorities.set_slot)


def filled(values):
    """A table of these priorities [environments, slots]."""
    environments, slots = values.shape
    environment, slot = np.indices(values.shape).reshape(2, -1)
    return update(priorities.init(environments, slots), environment, slot, values.astype(np.float32).reshape(-1))


def random_values(environments, slots, seed=0):
    random = np.random.default_rng(seed)
    values = random.random((environments, slots)) ** 3 + 1e-3
    return np.where(random.random(values.shape) < 0.3, 0, values).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1500)])
def test_draws_go_by_priority(shape):
    values = random_values(*shape)
    values[-1, -1] = 0.5
    environment, slot, probability = sample(filled(values), jax.random.key(0), DRAWS)
    share = values.astype(np.float64) / values.sum(dtype=np.float64)
    np.testing.assert_allclose(probability, share[environment, slot], rtol=1e-5)
    assert (np.asarray(probability) > 0).all()
    counts = np.zeros(shape)
    np.add.at(counts, (environment, slot), 1)
    # Stratified draws: between the whole shares that a slot covers and those it touches.
    assert (np.abs(counts - share * DRAWS) < 2).all()


def test_separate_draws_of_one_are_random_by_priority():
    values = np.array([[1, 2, 0, 3], [0, 4, 5, 0.5]], np.float32)
    draw = jax.jit(jax.vmap(lambda key, table: priorities.sample(table, key, 1), (0, None)))
    environment, slot, _ = draw(jax.random.split(jax.random.key(1), 20_000), filled(values))
    counts = np.bincount(np.asarray(environment * 4 + slot)[:, 0], minlength=8)
    expected = values.reshape(-1).astype(np.float64) / values.sum(dtype=np.float64) * 20_000
    assert (counts[expected == 0] == 0).all()
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (2, 1500)])
def test_draws_equal_a_search_of_the_cumulative_sum(shape):
    values = random_values(*shape)
    values[0, 0] = 1.0
    key = jax.random.key(2)
    environment, slot, _ = sample(filled(values), key, DRAWS)
    cumulative = np.cumsum(values.reshape(-1).astype(np.float64))
    mass = (np.arange(DRAWS) + np.asarray(jax.random.uniform(key, (DRAWS,)), np.float64)) / DRAWS * cumulative[-1]
    found = np.asarray(environment) * shape[1] + np.asarray(slot)
    # Within float32's rounding of the total the mass lies in the share that was found; nearly always the same slot.
    slack = 2e-6 * cumulative[-1]
    assert (mass < cumulative[found] + slack).all()
    assert (mass >= cumulative[found] - values.reshape(-1)[found] - slack).all()
    assert (found == np.searchsorted(cumulative, mass, side="right")).mean() > 0.98


def test_each_equal_share_of_the_total_is_drawn_once():
    _, slot, _ = sample(filled(np.ones((1, 64), np.float32)), jax.random.key(3), 64)
    np.testing.assert_array_equal(slot, np.arange(64))


def test_sums_do_not_drift():
    table = filled(random_values(3, 100))
    random = np.random.default_rng(1)
    model = np.asarray(table.leaves).reshape(3, -1)[:, :100].copy()

    @jax.jit
    def many(table, environment, slot, values, where, value):
        def step(table, i):
            table = priorities.update(table, environment[i], slot[i], values[i])
            return priorities.set_slot(table, where[i], value[i]), None

        return jax.lax.scan(step, table, jnp.arange(len(where)))[0]

    count = 2000
    environment, slot = random.integers(0, 3, (count, 16)), random.integers(0, 100, (count, 16))
    # Equal slots get equal values, from tiny to huge.
    values = (10.0 ** ((environment * 100 + slot + np.arange(count)[:, None]) % 12 - 6)).astype(np.float32)
    where, value = random.integers(0, 100, count), random.random(count).astype(np.float32)
    table = many(table, environment, slot, values, where, value)
    for i in range(count):
        model[environment[i], slot[i]] = values[i]
        model[:, where[i]] = value[i]
    leaves = np.asarray(table.leaves)
    np.testing.assert_array_equal(leaves.reshape(3, -1)[:, :100], model)
    np.testing.assert_allclose(table.sums, leaves.sum(-1, dtype=np.float64), rtol=1e-6)
    np.testing.assert_array_equal(leaves.reshape(3, -1)[:, 100:], 0)
    assert float(table.largest.max()) == values.max()


def test_an_update_with_duplicates_keeps_the_sums():
    table = update(priorities.init(2, 50), np.array([1, 1, 1]), np.array([7, 7, 9]), np.array([2, 3, 4], np.float32))
    leaf = float(table.leaves.reshape(2, -1)[1, 7])
    assert leaf in (2.0, 3.0)
    assert float(table.sums.sum()) == leaf + 4


def test_a_slot_is_set_in_every_environment():
    table = set_slot(filled(np.ones((3, 70), np.float32)), jnp.int32(65), 0.25)
    table = set_slot(table, jnp.int32(3), jnp.array([1.0, 2.0, 3.0])[:, None])
    leaves = np.asarray(table.leaves).reshape(3, -1)
    np.testing.assert_array_equal(leaves[:, 65], 0.25)
    np.testing.assert_array_equal(leaves[:, 3], [1, 2, 3])
    np.testing.assert_allclose(table.sums.sum(-1), leaves.sum(-1), rtol=1e-6)


def test_a_huge_priority_among_many_tiny_ones():
    values = np.full((2, 1500), 1e-20, np.float32)
    values[1, 1234] = 1e20
    environment, slot, probability = sample(filled(values), jax.random.key(4), DRAWS)
    assert (np.asarray(environment) == 1).all()
    assert (np.asarray(slot) == 1234).all()
    np.testing.assert_allclose(probability, 1.0, rtol=1e-6)


def test_a_million_slots():
    environments, slots = 10, 100_000
    values = random_values(environments, slots)
    environment, slot, probability = sample(filled(values), jax.random.key(5), 4096)
    drawn = values[environment, slot]
    assert (drawn > 0).all()
    np.testing.assert_allclose(probability, drawn / values.sum(dtype=np.float64), rtol=1e-4)
    # Stratified: the 4,096 shares lie evenly over the environments; and large values are drawn as often as they weigh.
    share = values.sum(1, dtype=np.float64) / values.sum(dtype=np.float64)
    assert (np.abs(np.bincount(environment, minlength=environments) - share * 4096) < 3).all()
    weight = values.reshape(-1).astype(np.float64) / values.sum(dtype=np.float64)
    mean = (weight * values.reshape(-1)).sum()
    deviation = np.sqrt((weight * (values.reshape(-1) - mean) ** 2).sum() / 4096)
    assert abs(drawn.mean() - mean) < 5 * deviation


def test_vmapped_tables_draw_as_single_ones():
    tables = [filled(random_values(2, 90, seed)) for seed in range(3)]
    keys = jax.random.split(jax.random.key(6), 3)
    together = jax.jit(jax.vmap(lambda table, key: priorities.sample(table, key, 64)))(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *tables), keys
    )
    for seed, table in enumerate(tables):
        environment, slot, probability = sample(table, keys[seed], 64)
        np.testing.assert_array_equal(together[0][seed], environment)
        np.testing.assert_array_equal(together[1][seed], slot)
        np.testing.assert_allclose(together[2][seed], probability, rtol=1e-6)
