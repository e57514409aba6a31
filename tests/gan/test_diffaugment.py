import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai.gan.diffaugment import check, diffaugment

FULL = "color", "translation", "cutout"
SHAPE = 64, 16, 24, 3


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, SHAPE), jnp.float32)


def run(policy, seed, images):
    return np.asarray(jax.jit(diffaugment, static_argnums=0)(policy, jax.random.key(seed), images))


@pytest.mark.parametrize("policy", [(), *((name,) for name in FULL), FULL])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shape_and_dtype_are_kept(policy, dtype, images):
    augmented = jax.eval_shape(lambda x: diffaugment(policy, jax.random.key(0), x), images.astype(dtype))
    assert (augmented.shape, augmented.dtype) == (images.shape, dtype)


def test_an_empty_policy_is_the_identity(images):
    np.testing.assert_array_equal(run((), 0, images), images)


@pytest.mark.parametrize("name", FULL)
def test_same_key_same_draw_and_another_key_another(name, images):
    first = run((name,), 0, images)
    np.testing.assert_array_equal(first, run((name,), 0, images))
    assert np.any(first != run((name,), 1, images))


@pytest.mark.parametrize("name", FULL)
def test_each_example_has_its_own_draw(name, images):
    same = jnp.broadcast_to(images[:1], SHAPE)
    distinct = np.unique(run((name,), 0, same).reshape(len(same), -1), axis=0)
    assert len(distinct) > len(same) / 3  # translation has 5 * 7 places


def test_each_part_of_a_policy_has_its_own_draw(images):
    one, two = (run(policy, 0, images) for policy in (("translation",), ("translation", "translation")))
    ones = jnp.ones(SHAPE)
    border = [run(policy, 0, ones) == 0 for policy in (("translation",), ("translation", "translation"))]
    assert np.any(one != two)
    # Twice the same move would make every border twice as wide.
    assert np.any(border[1].sum((1, 2, 3)) < 1.5 * border[0].sum((1, 2, 3)))


def measured_factors(images, augmented):
    """Of each example: what brightness added, and the factors of saturation and contrast, by least squares."""
    before, after = np.asarray(images, np.float64), augmented.astype(np.float64)
    brightness = (after - before).mean((1, 2, 3))
    chroma = [x - x.mean(3, keepdims=True) for x in (before, after)]
    grey = [x.mean(3) - x.mean((1, 2, 3))[:, None, None] for x in (before, after)]
    both = (chroma[0] * chroma[1]).sum((1, 2, 3)) / (chroma[0] ** 2).sum((1, 2, 3))
    contrast = (grey[0] * grey[1]).sum((1, 2)) / (grey[0] ** 2).sum((1, 2))
    return brightness, both / contrast, contrast


def test_color_is_three_affine_maps_drawn_from_the_paper_ranges():
    images = np.random.default_rng(1).uniform(-1, 1, (1000, 6, 6, 3)).astype(np.float32)
    augmented = run(("color",), 0, jnp.asarray(images))
    factors = measured_factors(images, augmented)
    brightness, saturation, contrast = (factor[:, None, None, None] for factor in factors)
    # The three numbers are all that was done: the paper's formulas with them give the images back.
    x = images.astype(np.float64) + brightness
    mean = x.mean(3, keepdims=True)
    x = (x - mean) * saturation + mean
    mean = x.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(augmented, (x - mean) * contrast + mean, atol=2e-6)
    for factor, low, high in zip(factors, (-0.5, 0, 0.5), (0.5, 2, 1.5), strict=True):
        width = high - low
        assert low - 1e-5 <= factor.min() < low + 0.02 * width
        assert high - 0.02 * width < factor.max() <= high + 1e-5
        # Of 1,000 uniform draws the mean lies within 5 standard errors of the middle.
        assert abs(factor.mean() - (low + high) / 2) < 5 * width / np.sqrt(12 * 1000)
    assert np.max(np.abs(np.corrcoef(factors)[np.triu_indices(3, 1)])) < 0.16


def test_color_of_one_channel_has_no_saturation():
    images = np.random.default_rng(2).uniform(-1, 1, (8, 5, 5, 1)).astype(np.float32)
    augmented = run(("color",), 0, jnp.asarray(images))
    before, after = (x - x.mean((1, 2, 3), keepdims=True) for x in (images, augmented))
    contrast = (before * after).sum((1, 2, 3), keepdims=True) / (before**2).sum((1, 2, 3), keepdims=True)
    assert np.all((contrast > 0.499) & (contrast < 1.501))
    np.testing.assert_allclose(after, contrast * before, atol=1e-6)


def moved(image, down, right):
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    rows, columns = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    from_rows, from_columns = (
        slice(max(-down, 0), height + min(-down, 0)),
        slice(max(-right, 0), width + min(-right, 0)),
    )
    out[rows, columns] = image[from_rows, from_columns]
    return out


def test_translation_moves_exact_pixels_by_up_to_an_eighth(images):
    seen = set()
    many = np.tile(np.asarray(images), (8, 1, 1, 1))
    for before, after in zip(many, run(("translation",), 0, jnp.asarray(many)), strict=True):
        moves = [(d, r) for d in range(-3, 4) for r in range(-4, 5) if np.array_equal(moved(before, d, r), after)]
        assert len(moves) == 1
        seen.update(moves)
    # Sides of 16 and 24: 2 and 3 pixels each way, every place of which 512 draws have found.
    assert seen == {(down, right) for down in range(-2, 3) for right in range(-3, 4)}


@pytest.mark.parametrize(("height", "width"), [(16, 24), (28, 28), (10, 7)])
def test_cutout_blanks_a_box_of_half_the_side_cut_off_at_the_border(height, width):
    blank = run(("cutout",), 0, jnp.ones((600, height, width, 2))) == 0
    np.testing.assert_array_equal(blank[..., 0], blank[..., 1])
    rows, columns = blank[..., 0].any(2), blank[..., 0].any(1)
    np.testing.assert_array_equal(blank[..., 0], rows[:, :, None] & columns[:, None, :])
    for line, pixels in ((rows, height), (columns, width)):
        side = int(pixels / 2 + 0.5)
        first, last, extent = line.argmax(1), pixels - 1 - line[:, ::-1].argmax(1), line.sum(1)
        np.testing.assert_array_equal(extent, last - first + 1)  # one piece
        inside = (first > 0) & (last < pixels - 1)
        np.testing.assert_array_equal(extent[inside], side)
        # Every place: from half of the box before the first pixel to half of it after the last.
        middles = np.unique(np.where(first > 0, first + side // 2, last + 1 - side + side // 2))
        np.testing.assert_array_equal(middles, np.arange(pixels + 1 - side % 2))


def test_cutout_leaves_the_other_pixels_alone(images):
    augmented = run(("cutout",), 3, images)
    np.testing.assert_array_equal(augmented[augmented != 0], np.asarray(images)[augmented != 0])
    # Uncut, a quarter of the image; cut off on both axes, nine sixteenths of that on average.
    assert 0.11 < np.mean(augmented == 0) < 0.21


@pytest.mark.parametrize("policy", [*((name,) for name in FULL), FULL])
def test_gradient_is_that_of_the_same_map_by_finite_differences(policy):
    rng = np.random.default_rng(5)
    images, cotangent = (rng.normal(size=(2, 8, 8, 3)).astype(np.float32) for _ in range(2))

    @jax.jit
    def both(images, cotangent, steps):
        augmented, transpose = jax.vjp(lambda x: diffaugment(policy, jax.random.key(6), x), images)
        moved = jax.vmap(lambda step: diffaugment(policy, jax.random.key(6), images + step))(steps)
        return transpose(cotangent)[0], moved - augmented

    # Every part is affine in the images, so that a step of any size gives the derivative: e_i -> f(x + e_i) - f(x).
    gradient, columns = both(images, cotangent, np.eye(2 * 8 * 8 * 3, dtype=np.float32).reshape(-1, 2, 8, 8, 3))
    expected = (columns * cotangent).sum((1, 2, 3, 4)).reshape(images.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=5e-5)
    assert np.any(np.abs(gradient) > 0.1)


def test_second_derivatives_pass_as_a_gradient_penalty_needs_them(images):
    @jax.jit
    @jax.value_and_grad
    def squared_norm(scale):
        def score(x):
            return jnp.sum(jnp.tanh(scale * diffaugment(FULL, jax.random.key(0), x)))

        return jnp.sum(jax.grad(score)(images[:2]) ** 2)

    (low, _), (_, gradient), (high, _) = (squared_norm(scale) for scale in (0.49, 0.5, 0.51))
    np.testing.assert_allclose(gradient, (high - low) / 0.02, rtol=1e-3)


def test_unknown_name_is_refused_in_one_line(images):
    message = r"^diffaugment has 'colour', expected names among color, translation, cutout$"
    with pytest.raises(ValueError, match=message):
        check(("cutout", "colour"))
    with pytest.raises(ValueError, match=message):
        diffaugment(("colour",), jax.random.key(0), images)
    check(FULL)
