"""Shapes and dtypes that would train silently wrong are refused while tracing, in one line that names the fix."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxai import cnn, gan, inputs
from jaxai.cnn.whitening import whitening_kernel
from jaxai.experiments.generation.extractor import extract, load_extractor
from jaxai.runtime import parallel

EXAMPLES = 6
CNN = cnn.Config(architecture="mlp", width=4, depth=1, image_shape=(4, 4, 3), num_classes=5)
GAN = gan.Config(width=2, latent_size=4, image_shape=(4, 4, 3), num_classes=5, conditional=True)
LABELS = np.arange(EXAMPLES, dtype=np.int32) % 5
IMAGES = np.random.default_rng(0).integers(0, 256, (EXAMPLES, 4, 4, 3), np.uint8)
BATCH = {"image": IMAGES, "label": LABELS}

WRONG = {
    "column": (BATCH | {"label": LABELS[:, None]}, r"labels have shape \[6, 1\]; expected \[6\]: take labels\[:, 0\]"),
    "row": (BATCH | {"label": LABELS[None]}, r"labels have shape \[1, 6\]; expected \[6\]: take labels\[0\]"),
    "one-hot": (BATCH | {"label": np.eye(5)[LABELS]}, r"labels have shape \[6, 5\]; .* labels.argmax\(-1\)"),
    "floats": (BATCH | {"label": LABELS.astype(np.float32)}, r"labels are float32; expected integers: .*astype\(int32"),
    "truths": (BATCH | {"label": LABELS > 1}, r"labels are bool; expected integers"),
    "fewer": (BATCH | {"label": LABELS[:-1]}, r"labels have shape \[5\]; expected \[6\]"),
    "none": ({"image": IMAGES}, r"the batch has no \"label\", only 'image': add \"label\""),
    "y": ({"image": IMAGES, "y": LABELS}, r"the batch has no \"label\", .* rename \"y\" to \"label\""),
    "images": ({"images": IMAGES, "label": LABELS}, r"no \"image\", only 'images', 'label': rename \"images\" to"),
    "pair": ((IMAGES, LABELS), r"the batch is a tuple; expected a dict"),
    "nothing": (None, r"the batch is a NoneType; expected a dict"),
    "list": (BATCH | {"label": LABELS.tolist()}, r"label is a list; expected an array of numbers"),
    "flat": (BATCH | {"image": IMAGES.reshape(6, -1)}, r"images have shape \[6, 48\]; expected \[batch, height"),
    "grey": (BATCH | {"image": IMAGES[..., 0]}, r"images have shape \[6, 4, 4\]; expected .*\[batch, 4, 4, 3\]"),
    "planes": (BATCH | {"image": IMAGES.transpose(0, 3, 1, 2)}, r"channels last with images.transpose\(0, 2, 3, 1\)"),
    "channel": (BATCH | {"image": IMAGES[..., :1]}, r"shape \[6, 4, 4, 1\]; .*image_shape of .* is \[4, 4, 3\]"),
    "size": (BATCH | {"image": IMAGES[:, :2]}, r"images have shape \[6, 2, 4, 3\]; expected"),
    "int32": (BATCH | {"image": IMAGES.astype(np.int32)}, r"images are int32; expected uint8 in \[0, 255\] or floats"),
    "uint16": (BATCH | {"image": IMAGES.astype(np.uint16)}, r"images are uint16; expected .*images.astype\(uint8\)"),
    "black": (BATCH | {"image": IMAGES > 9}, r"images are bool; expected .*images.astype\(float32\)"),
}


def stepped(workload, key=0):
    state = jax.eval_shape(workload.init, jax.random.key(key))
    steps = {name: getattr(workload, name) for name in ("train_step", "eval_step", "gradients")}
    return {name: lambda batch, step=step: jax.eval_shape(step, state, batch) for name, step in steps.items()}


STEPS = {"cnn": stepped(cnn.make(CNN)), "gan": stepped(gan.make(GAN))}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("workload", STEPS)
def test_every_step_refuses_what_would_broadcast_round_or_be_read_in_another_scale(workload, wrong):
    batch, message = WRONG[wrong]
    for step in STEPS[workload].values():
        if not isinstance(batch, tuple | None):
            step(BATCH)
        with pytest.raises(ValueError, match=message) as error:
            step(batch)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_every_engine_refuses_a_column_of_labels(mode):
    mesh = parallel.make_mesh(2)
    workload = cnn.make(CNN, parallel.axis_name(mode))
    state = parallel.place_state(jax.jit(workload.init)(jax.random.key(0)), mesh, mode)
    batches = parallel.place_batches(BATCH | {"label": LABELS[:, None]}, mesh, mode)
    with pytest.raises(ValueError, match=r"take labels\[:, 0\]"):
        parallel.compile_step(workload.train_step, mesh, mode)(state, batches)


@pytest.mark.parametrize("workload", STEPS)
def test_a_mask_that_would_broadcast_is_refused_and_one_of_bools_counts(workload):
    with pytest.raises(ValueError, match=r"mask has shape \[6, 1\]; expected \[6\].*mask\[:, 0\]"):
        STEPS[workload]["eval_step"](BATCH | {"mask": np.ones((EXAMPLES, 1))})
    made = cnn.make(CNN) if workload == "cnn" else gan.make(GAN)
    state = jax.jit(made.init)(jax.random.key(0))
    kept = np.arange(EXAMPLES) < 4
    one, other = (jax.jit(made.eval_step)(state, BATCH | {"mask": mask}) for mask in (kept, kept.astype(np.float32)))
    chex.assert_trees_all_equal(one, other)
    assert float(one["count"]) == 4


def test_what_is_predicted_extracted_or_drawn_is_checked_too():
    state = jax.eval_shape(cnn.make(CNN).init, jax.random.key(0))
    for function in (cnn.make_predict(CNN), cnn.make_features(CNN)):
        for images in (IMAGES[0], IMAGES[..., :2], IMAGES.astype(np.int32)):
            with pytest.raises(ValueError, match="images"):
                jax.eval_shape(function, state, images)
    with pytest.raises(ValueError, match=r"add the batch axis with images\[None\]"):
        jax.eval_shape(cnn.make_predict(CNN), state, IMAGES[0])
    drawn, latents = jax.eval_shape(gan.make(GAN).init, jax.random.key(0)), jnp.zeros((EXAMPLES, 4))
    predict = gan.make_predict(GAN)
    for labels, message in (
        (None, "given no labels"),
        (LABELS[:, None], r"take labels\[:, 0\]"),
        (np.eye(5)[LABELS], r"labels.argmax\(-1\)"),
        (LABELS.astype(float), "expected integers"),
        (LABELS[:-1], r"labels have shape \[5\]; expected \[6\]"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(predict, drawn, {"latent": latents} | ({} if labels is None else {"label": labels}))
    with pytest.raises(ValueError, match=r"latents have shape \[6, 3\]; expected \[batch, 4\]"):
        jax.eval_shape(predict, drawn, {"latent": latents[:, :3], "label": LABELS})
    with pytest.raises(ValueError, match="images are int16"):
        extract(load_extractor("pixels", (4, 4, 3)), IMAGES.astype(np.int16))
    with pytest.raises(ValueError, match="images are uint8; expected normalised floats"):
        whitening_kernel(IMAGES)
    with pytest.raises(ValueError, match=r"images have shape \[6, 4, 4, 1\]; expected \[..., 3\] channels"):
        cnn.normalize(CNN, IMAGES[..., :1])
    for labels in (LABELS, np.eye(5, dtype=np.int32)[LABELS]):
        with pytest.raises(ValueError, match=r"labels_onehot .*take jax.nn.one_hot"):
            cnn.augment(cnn.Augment(mixup=1.0), jax.random.key(0), jnp.asarray(IMAGES), jnp.asarray(labels))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint16", "uint32", "bool"])
def test_images_whose_range_the_dtype_does_not_say_are_refused(dtype):
    images = IMAGES.astype(dtype)
    for normalize in (lambda given: cnn.normalize(CNN, given), lambda given: gan.normalize(GAN, given)):
        with pytest.raises(ValueError, match=rf"images are {dtype}; expected uint8") as error:
            normalize(images)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_floats_are_read_as_0_to_1_and_bytes_as_0_to_255(dtype):
    shares = jnp.asarray([[[[0.0, 0.5, 1.0]]]]).astype(dtype if dtype != "float64" else "float32")
    shares = np.asarray(shares, np.float64) if dtype == "float64" else shares
    np.testing.assert_allclose(gan.normalize(GAN, shares), [[[[-1, 0, 1]]]])
    np.testing.assert_allclose(cnn.normalize(CNN, shares), [[[[-1, 0, 1]]]])
    for normalize in (lambda given: cnn.normalize(CNN, given), lambda given: gan.normalize(GAN, given)):
        normalized = normalize(np.array([[[[0, 51, 255]]]], np.uint8))
        np.testing.assert_allclose(normalized, [[[[-1, -0.6, 1]]]], rtol=1e-6)
        assert normalized.dtype == jnp.float32


def test_required_arrays_come_back_in_the_order_that_was_asked():
    image, label = inputs.required(BATCH, "image", "label")
    assert (image.shape, label.shape) == (IMAGES.shape, LABELS.shape)


def test_a_batch_without_images_is_refused():
    with pytest.raises(ValueError, match=r"^the batch has no images; expected at least 1$"):
        inputs.check_images(np.zeros((0, 4, 4, 1), np.uint8), (4, 4, 1))
