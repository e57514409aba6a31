"""The facts in a classifier's model card."""

from jaxai import cnn
from jaxai.core import PyTree
from jaxai.runtime.model_card import Model


def describe(config: cnn.Config, params: PyTree) -> Model:
    """The facts of a trained classifier.

    Args:
      config: resolved.
      params: trained parameters.
    """
    parts = [f"{config.architecture}, width {config.width}"]
    parts += [f"depth {config.depth}"] if config.depth else []
    parts += [f"normalization {config.normalization}"] if config.normalization != "auto" else []
    parts += [f"dropout {config.dropout:g}"] if config.dropout else []
    parts += [f"averaged parameters (decay {config.ema_decay:g})"] if config.ema_decay else []
    shape, classes = list(config.image_shape), config.num_classes
    return Model(
        kind="Image classifier",
        network=f"Network: {', '.join(parts)}",
        params=params,
        inputs={"images": f"[examples, {', '.join(map(str, shape))}] uint8 in [0, 255], or float32 in [0, 1]"},
        outputs={"probabilities": f"[examples, {classes}] float32; column i is class i of `run.classes`"},
        usage=("probabilities = run.predict(images)", "names = [run.classes[i] for i in probabilities.argmax(-1)]"),
        commands=("jaxai evaluate RUN", "jaxai report RUN"),
        pipeline="image-classification",
        tags=("image-classification",),
    )
