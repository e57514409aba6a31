import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai.cnn.augment import Augment, alternating_bit, augment
from jaxai.cnn.augment import test_time as averaged_logits

BATCH, HEIGHT, WIDTH = 64, 12, 10


def batch(dtype=np.float32, channels=3):
    generator = np.random.default_rng(0)
    images = generator.integers(1, 256, (BATCH, HEIGHT, WIDTH, channels)).astype(dtype)
    return images, np.eye(10, dtype=np.float32)[generator.integers(0, 10, BATCH)]


@functools.partial(jax.jit, static_argnums=0)
def run(config, seed, images, labels, epoch=0, example_index=None):
    return augment(config, jax.random.key(seed), images, labels, epoch=epoch, example_index=example_index)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_all_off_is_the_identity(dtype):
    images, labels = batch(dtype)
    after, labels_after = run(Augment(), 0, images, labels)
    assert after.dtype == dtype
    np.testing.assert_array_equal(after, images)
    np.testing.assert_array_equal(labels_after, labels)


def flipped(images, after):
    """Whether each image came out mirrored; fails where one is neither itself nor its mirror image."""
    same, mirrored = ((after == other).all(axis=(1, 2, 3)) for other in (images, images[:, :, ::-1]))
    assert np.all(same ^ mirrored)
    return mirrored


def test_random_flip_mirrors_about_half_of_the_images():
    images, labels = batch(np.uint8)
    draws = [flipped(images, np.asarray(run(Augment(flip="random"), seed, images, labels)[0])) for seed in range(8)]
    assert 0.4 < np.mean(draws) < 0.6
    assert len({draw.tobytes() for draw in draws}) == 8


def test_alternating_flip_shows_both_views_in_any_two_epochs_whatever_the_key():
    images, labels = batch(np.uint8)
    index = np.arange(1000, 1000 + BATCH, dtype=np.int32)
    epochs = [
        flipped(images, np.asarray(run(Augment(flip="alternating"), seed, images, labels, epoch, index)[0]))
        for epoch, seed in enumerate([3, 1, 4, 1])
    ]
    for one, next_one in itertools.pairwise(epochs):
        np.testing.assert_array_equal(one, ~next_one)
    assert 0.25 < np.mean(epochs[0]) < 0.75


def test_the_alternating_bit_is_fair_and_uncorrelated_between_neighbours():
    bits = np.asarray(alternating_bit(jnp.arange(50_000, dtype=jnp.int32), 0)).astype(float)
    for stride in (1, 2, 10, 64):
        assert abs(np.corrcoef(bits[:-stride], bits[stride:])[0, 1]) < 0.02
    assert abs(bits.mean() - 0.5) < 0.01


def test_alternating_flip_without_indices_is_a_random_flip():
    images, labels = batch()
    alternating, random = (run(Augment(flip=flip), 5, images, labels)[0] for flip in ("alternating", "random"))
    np.testing.assert_array_equal(alternating, random)


@pytest.mark.parametrize(("padding", "dtype"), [(1, np.uint8), (4, np.float32)])
def test_crop_is_a_window_of_the_reflected_image_at_every_offset(padding, dtype):
    images, labels = batch(dtype)
    after = np.asarray(run(Augment(crop_padding=padding), 0, images, labels)[0])
    assert after.dtype == dtype
    seen = []
    for image, got in zip(images, after, strict=True):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
        offsets = [
            (y, x)
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            if np.array_equal(got, padded[y : y + HEIGHT, x : x + WIDTH])
        ]
        assert len(offsets) == 1
        seen += offsets
    assert {y for y, _ in seen} == {x for _, x in seen} == set(range(2 * padding + 1))


@pytest.mark.parametrize("side", [3, 4])
def test_cutout_blanks_a_square_that_only_the_border_cuts_off(side):
    images, labels = batch(np.uint8)
    after, labels_after = run(Augment(cutout=side), 0, images, labels)
    np.testing.assert_array_equal(labels_after, labels)
    areas = []
    for image, got in zip(images, np.asarray(after), strict=True):
        blank = (got == 0).all(axis=-1)
        np.testing.assert_array_equal(got[~blank], image[~blank])
        rows, columns = np.flatnonzero(blank.any(axis=1)), np.flatnonzero(blank.any(axis=0))
        assert blank.sum() == len(rows) * len(columns)
        for lines, size in [(rows, HEIGHT), (columns, WIDTH)]:
            assert len(lines) == lines[-1] - lines[0] + 1
            assert len(lines) == side or (len(lines) < side and (lines[0] == 0 or lines[-1] == size - 1))
        areas.append(blank.sum())
    assert max(areas) == side**2
    assert min(areas) < side**2


def test_mixup_averages_images_and_labels_by_the_same_share():
    images, labels = batch(np.uint8)
    after, labels_after = run(Augment(mixup=0.8), 2, images, labels)
    assert after.dtype == jnp.float32
    partners, partner_labels = np.roll(images, 1, axis=0).astype(np.float32), np.roll(labels, 1, axis=0)
    differ = labels.argmax(1) != partner_labels.argmax(1)
    share = np.asarray(labels_after)[differ, labels.argmax(1)[differ]]
    assert 0 < share[0] < 1
    np.testing.assert_allclose(share, share[0])
    np.testing.assert_allclose(after, share[0] * images + (1 - share[0]) * partners, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(labels_after, share[0] * labels + (1 - share[0]) * partner_labels, atol=1e-6)
    np.testing.assert_allclose(np.sum(labels_after, axis=1), 1, atol=1e-6)


def test_the_shares_of_mixup_follow_the_beta_distribution():
    images, labels = np.zeros((2, 2, 2, 1), np.float32), np.eye(2, dtype=np.float32)
    keys = jax.random.split(jax.random.key(0), 2000)
    draw = jax.vmap(lambda key: augment(Augment(mixup=0.4), key, images, labels)[1][0, 0])
    shares = np.asarray(jax.jit(draw)(keys))
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * 1.8)) < 0.01


def test_cutmix_weighs_labels_by_the_pasted_area_exactly():
    images, _ = batch()
    labels = np.eye(BATCH, dtype=np.float32)
    shares = set()
    for seed in range(12):
        after, labels_after = run(Augment(cutmix=1.0), seed, images, labels)
        partners = np.roll(images, 1, axis=0)
        pasted = (np.asarray(after) != images).any(axis=(0, 3))
        rows, columns = pasted.any(axis=1).sum(), pasted.any(axis=0).sum()
        assert pasted.sum() == rows * columns
        np.testing.assert_array_equal(after, np.where(pasted[None, :, :, None], partners, images))
        share = np.float32(pasted.sum()) / np.float32(HEIGHT * WIDTH)
        weights = np.asarray(labels_after)[np.arange(BATCH), np.arange(BATCH) - 1]
        np.testing.assert_allclose(weights, share, rtol=2e-7)  # one pixel would be 1e-2
        np.testing.assert_allclose(np.sum(labels_after, axis=1), 1, atol=1e-6)
        shares.add(float(share))
    assert len(shares) > 6


def test_with_mixup_and_cutmix_each_batch_draws_one_of_them():
    images, labels = batch()
    kinds = []
    for seed in range(16):
        after = np.asarray(run(Augment(mixup=1.0, cutmix=1.0), seed, images, labels)[0])
        copied = (after == images) | (after == np.roll(images, 1, axis=0))
        kinds.append(bool(copied.all()))
    assert {True, False} == set(kinds)


def test_a_device_alone_augments_as_its_key_says():
    images, labels = batch(np.uint8)
    config = Augment(flip="random", crop_padding=2, cutout=3)
    first, again, other = (np.asarray(run(config, seed, images, labels)[0]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def logits_of(images):
    # Position-dependent, so that every view gives other logits.
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(HEIGHT * WIDTH, 4)), jnp.float32)
    return images[..., 0].reshape(len(images), -1) @ weights


def test_test_time_averages_the_views_with_the_papers_weights():
    images = batch()[0][:5] / 255
    mirror = images[:, :, ::-1]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    down, up = padded[:, :HEIGHT, :WIDTH], padded[:, 2:, 2:]
    plain = (logits_of(images) + logits_of(mirror)) / 2
    moved = sum(logits_of(view) for view in (down, down[:, :, ::-1], up, up[:, :, ::-1])) / 4
    for mode, expected in [("none", logits_of(images)), ("flip", plain), ("flip_shift", (plain + moved) / 2)]:
        np.testing.assert_allclose(averaged_logits(logits_of, jnp.asarray(images), mode), expected, atol=1e-4)
    with pytest.raises(ValueError, match="test_time is 'crop', expected none, flip or flip_shift"):
        averaged_logits(logits_of, jnp.asarray(images), "crop")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Augment(flip="up"), "augment.flip is 'up'; it must be one of none, random, alternating"),
        (Augment(crop_padding=-1), "augment.crop_padding is -1"),
        (Augment(crop_padding=10), "augment.crop_padding is 10, expected less than the 10 pixels"),
        (Augment(cutout=-2), "augment.cutout is -2"),
        (Augment(mixup=-0.1), "augment.mixup is -0.1"),
        (Augment(cutmix=float("nan")), "augment.cutmix is nan"),
    ],
)
def test_a_bad_field_is_named_in_one_line(config, message):
    with pytest.raises(ValueError, match=message) as caught:
        augment(config, jax.random.key(0), *batch())
    assert "\n" not in str(caught.value)
