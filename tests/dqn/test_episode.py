from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxai.dqn.environment import Environment, make_environment
from jaxai.dqn.episode import Episode, run_episode
from jaxai.experiments.qlearning.drawing import BLUE, INK, MOST_FRAMES, ORANGE, render


class Timed:
    """Ends after `length` steps by itself or by a limit; observes [shape] filled with the time, rewards the action."""

    name = "Timed"

    def __init__(self, length: int, terminates: bool = False, shape: tuple[int, ...] = (2,)):
        self.length, self.terminates, self.shape = length, terminates, shape

    def reset(self, key: jax.Array, params: Any = None) -> tuple[jax.Array, jax.Array]:
        return jnp.full(self.shape, 100.0), jnp.int32(0)

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array, params: Any = None) -> tuple[Any, ...]:
        final = jnp.full(self.shape, 101.0 + state)
        ended = state + 1 >= self.length
        terminated, truncated = ended & self.terminates, ended & (not self.terminates)
        observation = jnp.where(ended, 100.0, final)
        info = {"final_observation": final}
        return observation, jnp.where(ended, 0, state + 1), action.astype(float), terminated, truncated, info

    def action_space(self, params: Any) -> Any:
        return SimpleNamespace(n=3)


def played(observations: Any, rewards: Any = None) -> Episode:
    steps = len(observations) - 1
    rewards = np.ones(steps, np.float32) if rewards is None else np.asarray(rewards, np.float32)
    return Episode(np.asarray(observations), np.zeros(steps, np.int32), rewards, True, False)


def last_frame(path: Any) -> np.ndarray:
    with Image.open(path) as image:
        image.seek(image.n_frames - 1)
        return np.asarray(image.convert("RGB"))


def near(picture: np.ndarray, colour: tuple[int, int, int], within: int = 12) -> np.ndarray:
    """Rows and columns of the pixels of that colour."""
    return np.argwhere(np.abs(picture.astype(int) - colour).max(-1) <= within)


@pytest.mark.parametrize("terminates", [True, False])
def test_an_episode_ends_at_its_first_end_with_its_own_last_observation(terminates):
    result = run_episode(lambda observation, key: 2, Timed(5, terminates), None, jax.random.key(0), 50)
    np.testing.assert_array_equal(result.observations[:, 0], [100, 101, 102, 103, 104, 105])
    np.testing.assert_array_equal(result.actions, [2] * 5)
    assert (result.undiscounted_return, result.terminated, result.truncated) == (10.0, terminates, not terminates)


def test_an_episode_without_end_is_cut_off():
    result = run_episode(lambda observation, key: 1, Timed(10**6), None, jax.random.key(0), 7)
    assert (len(result.rewards), result.terminated, result.truncated) == (7, False, False)
    with pytest.raises(ValueError, match="max_steps is 0; an episode has at least 1 step"):
        run_episode(lambda observation, key: 1, Timed(3), None, jax.random.key(0), 0)


def test_an_episode_follows_from_its_key_and_each_step_has_its_own():
    def policy(observation, key):
        return jax.random.randint(key, (), 0, 3)

    first, again, other = (run_episode(policy, Timed(40), None, jax.random.key(seed), 40).actions for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert set(first.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("shape", "stacked"), [((4,), (12,)), ((3, 2), (3, 2, 3)), ((3, 2, 5), (3, 2, 15))])
def test_a_policy_sees_the_last_frames_oldest_first_and_zeros_before_the_first(shape, stacked):
    seen = []

    def policy(observation, key):
        seen.append(observation.shape)
        # A frame holds 100 and more, which tells it from what was never there.
        frames = jnp.where(observation == 0, 0, observation - 99)
        line = frames.reshape(-1, stacked[-1])[0]
        oldest, middle, newest = line[:: len(line) // 3]
        return (10_000 * oldest + 100 * middle + newest).astype(jnp.int32)

    result = run_episode(policy, Timed(4, shape=shape), None, jax.random.key(0), 9, frame_stack=3)
    assert seen[0] == stacked
    np.testing.assert_array_equal(result.actions, [1, 102, 10_203, 20_304])


@pytest.mark.parametrize(
    ("steps", "frames"), [(1, 2), (20, 21), (MOST_FRAMES - 1, 300), (MOST_FRAMES, 300), (999, 300)]
)
def test_a_gif_has_a_frame_for_each_observation_up_to_the_most(tmp_path, steps, frames):
    path = render(Timed(5), None, played(np.zeros((steps + 1, 2)), [0.5] * steps), tmp_path / "new" / "episode.gif")
    with Image.open(path) as image:
        assert image.n_frames == frames
        assert image.info["comment"].decode() == f"Timed: {steps} steps, return {steps / 2:g}"
        assert image.info["duration"] == 500


@pytest.mark.parametrize(
    ("rewards", "text"), [([-0.001], "0"), ([0.1] * 3, "0.3"), ([-100.0], "-100"), ([1e6], "1000000")]
)
def test_the_return_is_written_plainly(tmp_path, rewards, text):
    path = render(Timed(5), None, played(np.zeros((len(rewards) + 1, 2)), rewards), tmp_path / "a.gif")
    with Image.open(path) as image:
        assert image.info["comment"].decode().endswith(f"return {text}")


def test_a_long_cart_pole_episode_is_small_and_complete(tmp_path):
    env, params = make_environment(Environment("CartPole-v1"))

    def balance(observation, key):
        position, speed, angle, turning = observation
        return jnp.where(angle + 0.5 * turning + 0.05 * speed + 0.02 * position > 0, 1, 0)

    result = run_episode(balance, env, params, jax.random.key(0), 500)
    assert (result.undiscounted_return, result.terminated, result.truncated) == (500.0, False, True)
    path = render(env, params, result, tmp_path / "cart_pole.gif")
    assert path.stat().st_size < 1_000_000
    with Image.open(path) as image:
        assert (image.n_frames, image.info["comment"]) == (300, b"CartPole-v1: 500 steps, return 500")


@pytest.mark.parametrize("angle", [-0.3, 0.3])
def test_a_pole_leans_to_the_side_of_its_angle(tmp_path, angle):
    env, params = make_environment(Environment("CartPole-v1", sticky_actions=0.1))
    path = render(env, params, played(np.tile(np.float32([1.2, 0, angle, 0]), (2, 1))), tmp_path / "a.gif")
    cart, pole = near(last_frame(path), INK)[-200:, 1].mean(), near(last_frame(path), ORANGE)
    assert cart == pytest.approx(270, abs=3)  # 1.2 of 2.4 to the right of the middle
    assert np.sign(pole[pole[:, 0].argmin(), 1] - cart) == np.sign(angle)


def test_an_acrobot_reaches_its_line_when_it_stands(tmp_path):
    env, params = make_environment(Environment("Acrobot-v1"))
    heights = []
    for cosine in (1.0, -1.0):  # hanging, standing
        observation = np.float32([cosine, 0, 1, 0, 0, 0])
        path = render(env, params, played([observation] * 2), tmp_path / "a.gif")
        heights.append(near(last_frame(path), ORANGE)[:, 0].mean())
    line = near(last_frame(path), (160, 166, 174))[:, 0].mean()
    assert heights[1] < line < heights[0]


def test_a_car_at_the_goal_stands_at_its_flag(tmp_path):
    env, params = make_environment(Environment("MountainCar-v0"))
    path = render(env, params, played(np.tile(np.float32([params.goal_position, 0]), (2, 1))), tmp_path / "a.gif")
    picture = last_frame(path)
    assert near(picture, ORANGE)[:, 1].mean() == pytest.approx(near(picture, BLUE)[:, 1].max(), abs=8)


def test_the_walker_of_four_rooms_and_of_the_lake_is_where_it_is(tmp_path):
    env, params = make_environment(Environment("FourRooms-misc"))
    picture = last_frame(render(env, params, played([[1, 11, 3, 3]] * 2), tmp_path / "a.gif"))
    cell = 240 // 13
    left = (picture.shape[1] - 13 * cell) // 2
    np.testing.assert_allclose(picture[26 + cell + 5, left + 11 * cell + 5], ORANGE, atol=12)
    np.testing.assert_allclose(picture[26 + 3 * cell + 5, left + 3 * cell + 5], BLUE, atol=12)
    env, params = make_environment(Environment("FrozenLake-misc"))
    picture = last_frame(render(env, params, played(np.array([0, 4])), tmp_path / "b.gif"))
    np.testing.assert_allclose(picture[26 + 60 + 5, 60 + 5], ORANGE, atol=12)
    np.testing.assert_allclose(picture[26 + 239, 60 + 239], BLUE, atol=12)


@pytest.mark.parametrize("dtype", [np.float32, bool, np.int32])
def test_each_channel_of_a_grid_has_its_colour_and_the_last_one_wins(tmp_path, dtype):
    grid = np.zeros((2, 3, 4), dtype)
    for cell, channel in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (4, 2)):
        grid.reshape(6, 4)[cell, channel] = 1
    picture = last_frame(render(Timed(5), None, played([grid] * 2), tmp_path / "a.gif"))
    cells = [tuple(picture[26 + 60 + 120 * (i // 3), 60 + 120 * (i % 3)].tolist()) for i in range(6)]
    assert len(set(cells[:4])) == 4
    assert cells[4] == cells[2]
    assert cells[5] == (0, 0, 0)


def test_pixels_are_shown_as_they_are(tmp_path):
    colours = np.uint8([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [128, 128, 128]]])
    picture = last_frame(render(Timed(5), None, played([colours] * 2), tmp_path / "a.gif"))
    np.testing.assert_allclose(picture[26 + 60 :: 120, 60 + 60 : 300 : 120], colours, atol=10)
    # Four stacked grey frames: the last is the newest.
    stack = np.stack([np.full((84, 84), level, np.uint8) for level in (0, 80, 160, 255)], -1)
    picture = last_frame(render(Timed(5), None, played([stack] * 2), tmp_path / "b.gif"))
    assert (picture[100, 180] > 245).all()


def test_maps_are_grey_and_vectors_are_bars(tmp_path):
    shades = np.float32([[0, 0.5], [0.5, 1]])
    picture = last_frame(render(Timed(5), None, played([shades] * 2), tmp_path / "a.gif"))
    np.testing.assert_allclose(picture[26 + 60 :: 120, 60 + 60 : 300 : 120, 0], 255 * shades, atol=8)
    vectors = [[2.0, -2.0], [1.0, -1.0]]
    picture = last_frame(render(Timed(5), None, played(vectors), tmp_path / "b.gif"))
    up, down = near(picture, BLUE), near(picture, ORANGE)
    assert up[:, 1].max() < 180 < down[:, 1].min()
    # Half of what was seen at most, which fills 0.9 of 240 pixels: 108; the one from below, the other from above.
    assert np.ptp(up[:, 0]) == pytest.approx(108, abs=4)
    assert up[:, 0].min() > down[:, 0].min()
