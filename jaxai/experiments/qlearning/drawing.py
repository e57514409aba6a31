"""The picture of an episode, as an animated GIF.

The drawings are made with Pillow from the observations alone: gymnax's need pygame or seaborn, build a new
environment for each frame and take minutes for a long episode.
"""

import colorsys
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxai import extras
from jaxai.core import PyTree
from jaxai.dqn.episode import Episode

MOST_FRAMES = 300
"""Largest number of pictures; a longer episode is shown at evenly spaced steps, the first and the last included."""
WIDTH, HEIGHT, TITLE = 360, 240, 26
"""Size in pixels of a drawing, and of the title above it."""
LEAST_BRIGHT = 32
"""If all bytes of an episode are below this, they are symbols and not pixels."""
SMOOTH = 2
"""Factor by which lines are drawn larger, before the picture is reduced."""
BLACK, INK, GREY, WHITE = (0, 0, 0), (32, 38, 46), (160, 166, 174), (255, 255, 255)
BLUE, ORANGE, FLOOR = (37, 99, 235), (228, 87, 46), (230, 230, 230)
Colour = tuple[int, int, int]
Draw = Callable[[np.ndarray], Any]


def render(env: Any, env_params: PyTree, episode: Episode, path: Path | str) -> Path:
    """Writes an episode as an animated GIF, a frame for each observation, but at most `MOST_FRAMES`.

    CartPole, Acrobot, MountainCar, FourRooms and FrozenLake have drawings of their own; other grids become pictures
    with a colour for each channel, pixels stay as they are, and vectors become bars. The title has the step and the
    return so far; the comment of the GIF has the length and the return of the episode.

    Args:
      env: of the episode.
      env_params: its parameters; None: its defaults.
      episode: from `run_episode`.
      path: of the GIF.

    Raises:
      MissingExtraError: Pillow is not installed.
    """
    Image, ImageDraw, ImageFont = (  # noqa: N806  # modules, under their usual names
        extras.load(f"PIL.{name}", "a GIF", "demo") for name in ("Image", "ImageDraw", "ImageFont")
    )
    steps = len(episode.rewards)
    shown = np.unique(np.linspace(0, steps, min(steps + 1, MOST_FRAMES)).round().astype(int))
    returns = np.concatenate([[0.0], np.cumsum(episode.rewards, dtype=np.float64)])
    name = str(getattr(env, "name", type(env).__name__))
    draw, palette = _scene(name, env, env_params, episode.observations)
    font = ImageFont.load_default(13)
    table = Image.new("P", (1, 1))
    table.putpalette([value for colour in palette for value in colour])
    frames = []
    for step in shown:
        drawing = draw(episode.observations[step])
        frame = Image.new("RGB", (max(WIDTH, drawing.width), TITLE + drawing.height), WHITE)
        frame.paste(drawing, ((frame.width - drawing.width) // 2, TITLE))
        title = f"{name}   step {step}   return {_number(returns[step])}"
        ImageDraw.Draw(frame).text((6, 5), title, INK, font)
        frames.append(frame.quantize(palette=table, dither=Image.Dither.NONE) if palette else frame.quantize(128))
    # Half a second for the beginning, more for the end; at most 20 frames per second.
    durations = [max(50, min(120, 15_000 // len(frames)))] * len(frames)
    durations[0], durations[-1] = 500, 1500
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        comment=f"{name}: {steps} steps, return {_number(returns[-1])}",
    )
    return path


def _scene(name: str, env: Any, env_params: PyTree, observations: np.ndarray) -> tuple[Draw, list[Colour]]:
    """How to draw an observation, and the colours; no colours for pixels."""
    if env_params is None:
        env_params = getattr(env, "default_params", None)
    shape = observations.shape[1:]
    known: dict[tuple[str, tuple[int, ...]], Callable[[Any, Any], Draw]] = {
        ("CartPole-v1", (4,)): _cart_pole,
        ("Acrobot-v1", (6,)): _acrobot,
        ("MountainCar-v0", (2,)): _mountain_car,
        ("FourRooms-misc", (4,)): _four_rooms,
        ("FrozenLake-misc", ()): _frozen_lake,
    }
    if (name, shape) in known:
        return known[name, shape](env, env_params), _palette(5)
    # Symbols in bytes would all be black as pixels.
    if len(shape) in (2, 3) and observations.dtype == np.uint8 and observations.max(initial=0) >= LEAST_BRIGHT:
        return _pixels, []
    if len(shape) == 3:
        return _channels, _palette(shape[-1])
    low, high = observations.min(0), observations.max(0)
    if len(shape) == 2:
        return _shades(float(low.min()), float(high.max())), _palette(0)
    return _bars(low.ravel(), high.ravel()), _palette(0)


def _palette(channels: int) -> list[Colour]:
    """32 greys, the two colours of the drawings, and a hue for each channel."""
    greys = [(level, level, level) for level in np.linspace(0, 255, 32).astype(int).tolist()]
    return [*greys, INK, BLUE, ORANGE, *_hues(min(channels, 200))]


def _hues(channels: int) -> list[Colour]:
    # The golden ratio keeps neighbouring hues far apart for any number of channels.
    shares = [colorsys.hls_to_rgb((0.58 + i * 0.618034) % 1, 0.62, 0.85) for i in range(channels)]
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in shares]


def _lines(drawing: Callable[[Any], None]) -> Any:
    """A drawing by `ImageDraw` on white, in pixels times SMOOTH, reduced."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH * SMOOTH, HEIGHT * SMOOTH), WHITE)
    drawing(ImageDraw.Draw(image))
    return image.reduce(SMOOTH)


def _cart_pole(env: Any, params: Any) -> Draw:
    scale = WIDTH * SMOOTH / (2 * float(params.x_threshold))
    ground = 0.75 * HEIGHT * SMOOTH

    def draw(observation: np.ndarray) -> Any:
        x, angle = WIDTH * SMOOTH / 2 + scale * observation[0], observation[2]
        # `length` is half of the pole's, from its hinge to its centre.
        reach = 2 * float(params.length) * scale
        tip = (x + reach * math.sin(angle), ground - 16 - reach * math.cos(angle))

        def drawing(pen: Any) -> None:
            pen.line((0, ground + 16, WIDTH * SMOOTH, ground + 16), GREY, 3)
            pen.rectangle((x - 40, ground - 16, x + 40, ground + 16), INK)
            pen.line((x, ground - 16, *tip), ORANGE, 14)
            pen.circle((x, ground - 16), 7, BLUE)

        return _lines(drawing)

    return draw


def _acrobot(env: Any, params: Any) -> Draw:
    first, second = float(params.link_length_1), float(params.link_length_2)
    scale = 0.45 * HEIGHT * SMOOTH / (first + second)

    def draw(observation: np.ndarray) -> Any:
        angle = math.atan2(observation[1], observation[0])
        total = angle + math.atan2(observation[3], observation[2])
        hinge = (WIDTH * SMOOTH / 2, HEIGHT * SMOOTH / 2)
        elbow = (hinge[0] + scale * first * math.sin(angle), hinge[1] + scale * first * math.cos(angle))
        tip = (elbow[0] + scale * second * math.sin(total), elbow[1] + scale * second * math.cos(total))

        def drawing(pen: Any) -> None:
            # The goal: the tip one link above the hinge.
            pen.line((0, hinge[1] - scale, WIDTH * SMOOTH, hinge[1] - scale), GREY, 3)
            pen.line((*hinge, *elbow), INK, 14)
            pen.line((*elbow, *tip), ORANGE, 14)
            pen.circle(hinge, 9, BLUE)
            pen.circle(elbow, 9, BLUE)

        return _lines(drawing)

    return draw


def _mountain_car(env: Any, params: Any) -> Draw:
    low, high, goal = float(params.min_position), float(params.max_position), float(params.goal_position)

    def place(position: float) -> tuple[float, float]:
        height = 0.45 * math.sin(3 * position) + 0.55
        return (position - low) / (high - low) * WIDTH * SMOOTH, (1 - 0.75 * height - 0.05) * HEIGHT * SMOOTH

    hill = [place(position) for position in np.linspace(low, high, 100).tolist()]

    def draw(observation: np.ndarray) -> Any:
        def drawing(pen: Any) -> None:
            pen.line(hill, INK, 4)
            x, y = place(goal)
            pen.line((x, y, x, y - 60), GREY, 4)
            pen.polygon((x, y - 60, x - 26, y - 50, x, y - 40), BLUE)
            x, y = place(float(observation[0]))
            pen.circle((x, y - 16), 14, ORANGE)

        return _lines(drawing)

    return draw


def _four_rooms(env: Any, params: Any) -> Draw:
    walls = np.asarray(env.occupied_map) > 0

    def draw(observation: np.ndarray) -> Any:
        picture = np.where(walls[..., None], np.array(INK, np.uint8), np.array(FLOOR, np.uint8))
        row, column, goal_row, goal_column = observation.astype(int)
        picture[goal_row, goal_column] = BLUE
        picture[row, column] = ORANGE
        return _enlarged(picture)

    return draw


def _frozen_lake(env: Any, params: Any) -> Draw:
    tiles = np.asarray(env.desc)
    from gymnax.environments.misc import frozen_lake

    def draw(observation: np.ndarray) -> Any:
        picture = np.where((tiles == frozen_lake.HOLE)[..., None], np.array(INK, np.uint8), np.array(FLOOR, np.uint8))
        picture[tiles == frozen_lake.GOAL] = BLUE
        picture.reshape(-1, 3)[int(observation)] = ORANGE
        return _enlarged(picture)

    return draw


def _channels(observation: np.ndarray) -> Any:
    """[rows, columns, channels], numbers or bool: each cell has the colour of the last channel that is not 0 there."""
    channels = observation.shape[-1]
    top = np.max(np.where(observation != 0, np.arange(1, channels + 1), 0), -1)
    return _enlarged(np.array([BLACK, *_hues(channels)], np.uint8)[top])


def _pixels(observation: np.ndarray) -> Any:
    """[rows, columns] or [rows, columns, channels] uint8: three channels are colours, else the last one is shown."""
    if observation.ndim == 2:
        observation = observation[..., None]
    return _enlarged(observation if observation.shape[-1] == 3 else np.repeat(observation[..., -1:], 3, -1))


def _shades(low: float, high: float) -> Draw:
    """[rows, columns] numbers, from black to white."""

    def draw(observation: np.ndarray) -> Any:
        levels = np.clip((observation - low) / max(high - low, 1e-8), 0, 1)
        return _enlarged(np.repeat((255 * levels[..., None]).astype(np.uint8), 3, -1))

    return draw


def _bars(low: np.ndarray, high: np.ndarray) -> Draw:
    """A bar for each number of a vector, from 0, in the range of its values in the episode."""
    low, high = np.minimum(low, 0).astype(float), np.maximum(high, 0).astype(float)
    spread = np.maximum(high - low, 1e-8)

    def draw(observation: np.ndarray) -> Any:
        bottom, top = 0.95 * HEIGHT * SMOOTH, 0.05 * HEIGHT * SMOOTH
        zeros = bottom + -low / spread * (top - bottom)
        ends = bottom + (observation.ravel() - low) / spread * (top - bottom)
        width = WIDTH * SMOOTH / len(ends)

        def drawing(pen: Any) -> None:
            for i, (zero, end) in enumerate(zip(zeros.tolist(), ends.tolist(), strict=True)):
                left, right = (i + 0.2) * width, (i + 0.8) * width
                pen.rectangle((left, min(zero, end), right, max(zero, end)), BLUE if end < zero else ORANGE)
                pen.line((left, zero, right, zero), INK, 3)

        return _lines(drawing)

    return draw


def _enlarged(picture: np.ndarray) -> Any:
    """[rows, columns, 3] uint8 as an image whose cells are as large as fits, with no blur."""
    from PIL import Image

    rows, columns = picture.shape[:2]
    cell = max(1, min(HEIGHT // rows, WIDTH // columns))
    return Image.fromarray(picture).resize((cell * columns, cell * rows), Image.Resampling.NEAREST)


def _number(value: float) -> str:
    """At most two digits after the point."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
