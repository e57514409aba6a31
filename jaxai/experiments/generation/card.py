"""The facts in a generator's model card."""

from jaxai import gan
from jaxai.core import PyTree
from jaxai.runtime.model_card import Model


def describe(config: gan.Config, params: PyTree) -> Model:
    """The facts of a trained generator.

    Args:
      config: resolved.
      params: trained parameters of generator and discriminator.
    """
    parts = [f"loss {config.loss}", f"{config.latent_size} latent variables"]
    parts += [f"averaged generator (decay {config.ema_decay:g})"] if config.ema_decay else []
    labels = {"labels": f"[examples] int32, 0 to {config.num_classes - 1}"} if config.conditional else {}
    shape = ", ".join(map(str, config.image_shape))
    label = ", label=0" if config.conditional else ""
    return Model(
        kind="Conditional image generator" if config.conditional else "Image generator",
        network=f"Generative adversarial networks: {', '.join(parts)}",
        params={"generator": params.generator, "discriminator": params.discriminator},
        inputs={"latents": f"[examples, {config.latent_size}] float32", **labels},
        outputs={"images": f"[examples, {shape}]"},
        usage=(f"images = run.sample(64{label})",),
        commands=("jaxai sample RUN --grid", "jaxai evaluate RUN", "jaxai report RUN"),
        pipeline="unconditional-image-generation",
        tags=("gan", "image-generation"),
    )
