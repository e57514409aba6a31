import jax
import numpy as np
import pytest
from scipy.spatial import geometric_slerp

from jaxai.gan import spherical_interpolation

interpolate = jax.jit(spherical_interpolation)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_unit_vectors_follow_scipys_great_circle():
    start, end = (vector / np.linalg.norm(vector) for vector in normal(2, 5).astype(float))
    shares = np.linspace(0, 1, 7, dtype=np.float32)
    found = interpolate(*(np.tile(vector, (7, 1)).astype(np.float32) for vector in (start, end)), shares)
    expected = geometric_slerp(start, end, shares.astype(float))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_path_begins_and_ends_at_its_ends():
    start, end = normal(2, 7, 5)
    shares = np.repeat(np.float32([0, 1]), [3, 4])
    found = interpolate(start, end, shares)
    np.testing.assert_allclose(found[:3], start[:3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[3:], end[3:], rtol=1e-5, atol=1e-6)


def test_halfway_between_two_draws_is_as_long_as_they_where_a_straight_line_is_shorter():
    start, end = normal(2, 7, 400)
    lengths = np.linalg.norm([interpolate(start, end, np.full(7, 0.5, np.float32)), (start + end) / 2], axis=-1)
    assert (np.abs(lengths[0] / 20 - 1) < 0.15).all()
    assert (lengths[1] / 20 < 0.85).all()


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_vectors_that_point_the_same_way_are_joined_by_a_straight_line(factor):
    start = normal(7, 5)
    shares = np.linspace(0, 1, 7, dtype=np.float32)
    expected = start * (1 + shares * (factor - 1))[:, None]
    np.testing.assert_allclose(interpolate(start, factor * start, shares), expected, rtol=1e-4, atol=1e-6)
