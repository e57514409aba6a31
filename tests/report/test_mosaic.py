import numpy as np
import pytest
from PIL import Image, ImageSequence

from jaxai.report import mosaic


def digits(count, channels=1, size=28, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_stand_in_rows_with_shared_borders(channels):
    images = digits(5, channels, size=3)
    picture = mosaic.tile(images, columns=3, border=2)
    expected = np.full((2 * 3 + 3 * 2, 3 * 3 + 4 * 2, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = 2 + 5 * (index // 3), 2 + 5 * (index % 3)
        expected[top : top + 3, left : left + 3] = image
    np.testing.assert_array_equal(picture, expected)
    assert picture.dtype == np.uint8


def test_tiles_without_border_are_seamless_and_each_pixel_is_a_square():
    images = np.array([[[1, 2]], [[3, 4]]], np.uint8)[..., None]
    picture = mosaic.tile(images, columns=2, border=0, scale=2)
    np.testing.assert_array_equal(picture[..., 0], [[1, 1, 2, 2, 3, 3, 4, 4]] * 2)


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (10, 3, 4), (64, 8, 8), (65, 8, 9)])
def test_without_columns_the_mosaic_is_about_square(count, rows, columns):
    assert mosaic.tile(digits(count, size=4), border=1).shape == (5 * rows + 1, 5 * columns + 1, 1)


def test_png_is_what_was_given_enlarged_without_blur(tmp_path):
    gray, colour = digits(1, size=100)[0], digits(1, 3, size=500)[0]
    path = mosaic.write_png(gray, tmp_path / "new" / "gray.png")
    with Image.open(path) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), np.kron(gray[..., 0], np.ones((9, 9), np.uint8)))
    with Image.open(mosaic.write_png(colour, tmp_path / "colour.png")) as image:
        np.testing.assert_array_equal(np.asarray(image), colour)
    with Image.open(mosaic.write_png(gray[..., 0], tmp_path / "plain.png", scale=2)) as image:
        assert image.size == (200, 200)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_read_as_it_was_written(tmp_path, channels):
    picture = digits(1, channels)[0]
    read = mosaic.read_png(mosaic.write_png(picture, tmp_path / "a.png", scale=1))
    np.testing.assert_array_equal(read, picture)
    assert read.dtype == np.uint8


def test_png_of_the_same_picture_has_the_same_bytes(tmp_path):
    first, second = (mosaic.write_png(digits(1)[0], tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second


def test_gif_plays_for_ever_and_holds_its_last_frame(tmp_path):
    frames = [mosaic.tile(digits(4, seed=step)) for step in range(5)]
    path = mosaic.write_gif(frames, tmp_path / "new" / "a.gif", milliseconds=150, last_milliseconds=1800)
    with Image.open(path) as animation:
        assert animation.n_frames == 5
        assert animation.info["loop"] == 0
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(animation)] == [150] * 4 + [1800]


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_shows_the_frames_as_far_as_its_palette_goes(tmp_path, channels):
    ramp = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8, 1).repeat(channels, -1)
    frames = [ramp, 255 - ramp]
    frames[1][..., -1] //= 2 if channels == 3 else 1
    with Image.open(mosaic.write_gif(frames, tmp_path / "a.gif", scale=3)) as animation:
        for frame, shown in zip(frames, ImageSequence.Iterator(animation), strict=True):
            expected = frame.repeat(3, 0).repeat(3, 1).repeat(3 // channels, 2)
            assert np.abs(np.asarray(shown.convert("RGB")).astype(int) - expected).max() <= 12


def test_captions_stand_below_the_frames_and_leave_them_alone(tmp_path):
    frame = np.zeros((60, 120, 1), np.uint8)
    path = mosaic.write_gif([frame, frame], tmp_path / "a.gif", captions=["step 0", "step 100"], scale=1)
    with Image.open(path) as animation:
        shown = [np.asarray(image.convert("L")) for image in ImageSequence.Iterator(animation)]
    assert len(shown) == 2
    for image in shown:
        assert image.shape == (60 + mosaic.BAND, 120)
        assert (image[:60] == 0).all()
        assert (image[60] == 255).all()
        assert 20 < (image[60:] < 60).sum() < 600
    assert (shown[0] != shown[1]).any()


def test_gif_that_would_be_too_large_is_smaller_then_shows_fewer_frames(tmp_path):
    frames = [mosaic.tile(digits(9, seed=step)) for step in range(9)]

    def written(most_bytes):
        path = mosaic.write_gif(frames, tmp_path / "a.gif", most_bytes=most_bytes)
        with Image.open(path) as animation:
            durations = [frame.info["duration"] for frame in ImageSequence.Iterator(animation)]
            return path.stat().st_size, animation.width, durations

    side = frames[0].shape[0]
    size, width, durations = written(0)
    assert (width, len(durations)) == (500 // side * side, 9)
    smaller, width, durations = written(size - 1)
    assert smaller < size
    assert (width, len(durations)) == ((500 // side - 1) * side, 9)
    fewest, width, durations = written(smaller // 8)
    assert fewest <= smaller // 8
    assert width == side
    assert durations[-1] == 2000
    assert len(durations) < 9
    assert sum(durations[:-1]) == pytest.approx(8 * 120, rel=0.5)


def test_single_frame_is_an_animation_too(tmp_path):
    with Image.open(mosaic.write_gif([digits(1)[0]], tmp_path / "a.gif", captions=["step 1"])) as image:
        assert image.n_frames == 1


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (np.zeros((2, 8, 8), np.uint8), r"\(2, 8, 8\)"),
        (np.zeros((2, 8, 8, 2), np.uint8), r"\(2, 8, 8, 2\)"),
        (np.zeros((0, 8, 8, 1), np.uint8), "at least one"),
        (np.zeros((2, 8, 8, 1), np.float32), "float32"),
    ],
)
def test_tiles_of_another_kind_are_refused_in_one_line(images, reason):
    with pytest.raises(ValueError, match=reason) as error:
        mosaic.tile(images)
    assert "\n" not in str(error.value)


def test_tiles_need_sensible_numbers():
    for wrong in ({"columns": -1}, {"border": -1}, {"scale": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} {next(iter(wrong.values()))}"):
            mosaic.tile(digits(2), **wrong)


def test_pictures_of_another_kind_are_refused_in_one_line(tmp_path):
    path = tmp_path / "a.gif"
    good = digits(2)
    for call, reason in (
        (lambda: mosaic.write_png(good, path), r"\(2, 28, 28, 1\)"),
        (lambda: mosaic.write_png(good[0] / 255, path), "float64"),
        (lambda: mosaic.write_png(good[0], path, scale=-1), "-1"),
        (lambda: mosaic.write_gif([], path), "got none"),
        (lambda: mosaic.write_gif([good[0], good[1, 1:]], path), r"\(27, 28, 1\) and \(28, 28, 1\)"),
        (lambda: mosaic.write_gif(good, path, captions=["one"]), "1 for 2"),
        (lambda: mosaic.write_gif(good, path, scale=-2), "-2"),
        (lambda: mosaic.write_gif(good, path, milliseconds=0), "10 milliseconds"),
    ):
        with pytest.raises(ValueError, match=reason) as error:
            call()
        assert "\n" not in str(error.value)
    assert not path.exists()
