"""The DCGAN in Keras on TensorFlow, float32, on the CPU.

python -m benchmarks.peers.keras_gan --batch-size 64
"""

import os
from typing import Any

from benchmarks.peers import serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """The networks and the update as Keras's tutorials write them, many steps in one `tf.function`."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf
    from keras import layers

    def normalize() -> list[Any]:
        return [layers.BatchNormalization(momentum=0.9, epsilon=1e-5), layers.LeakyReLU(0.2)]

    generator = keras.Sequential(
        [
            keras.Input((100,)),
            layers.Dense(7 * 7 * 256, use_bias=False), layers.Reshape((7, 7, 256)), *normalize(),
            layers.Conv2DTranspose(128, 5, 1, padding="same", use_bias=False), *normalize(),
            layers.Conv2DTranspose(64, 5, 2, padding="same", use_bias=False), *normalize(),
            layers.Conv2DTranspose(1, 5, 2, padding="same", activation="tanh"),
        ]
    )  # fmt: skip
    discriminator = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 5, 2, padding="same"), layers.LeakyReLU(0.2),
            layers.Conv2D(128, 5, 2, padding="same"), layers.LeakyReLU(0.2),
            layers.Flatten(), layers.Dense(1),
        ]
    )  # fmt: skip
    g_adam, d_adam = (keras.optimizers.Adam(2e-4, beta_1=0.5) for _ in range(2))
    g_adam.build(generator.trainable_variables)
    d_adam.build(discriminator.trainable_variables)

    def cross_entropy(logits: Any, target: float) -> Any:
        labels = tf.fill(tf.shape(logits), target)
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))

    def update(real: Any) -> Any:
        fake = generator(tf.random.normal((batch_size, 100)), training=True)
        with tf.GradientTape() as tape:
            logits = discriminator(tf.concat([real, fake], 0), training=True)
            d_loss = cross_entropy(logits[:batch_size], 1.0) + cross_entropy(logits[batch_size:], 0.0)
        d_adam.apply(tape.gradient(d_loss, discriminator.trainable_variables))
        with tf.GradientTape() as tape:
            fake = generator(tf.random.normal((batch_size, 100)), training=True)
            g_loss = cross_entropy(discriminator(fake, training=True), 1.0)
        g_adam.apply(tape.gradient(g_loss, generator.trainable_variables))
        return d_loss + g_loss

    images = 2 * serving.random_data(batch_size, (28, 28, 1))[0] - 1
    dataset = tf.data.Dataset.from_tensor_slices(images.reshape(-1, batch_size, 28, 28, 1))
    batches = iter(dataset.cache().repeat().prefetch(2))

    # Tried on a busy machine: with XLA (jit_compile) about 0.6 of the rate.
    @tf.function(jit_compile=False)
    def train(steps: Any) -> Any:
        loss = 0.0
        for _ in tf.range(steps):
            loss = update(next(batches))
        return loss

    def run(steps: int) -> None:
        float(train(tf.constant(steps)))

    parameters = sum(variable.numpy().size for variable in generator.trainable_variables)
    parameters += sum(variable.numpy().size for variable in discriminator.trainable_variables)
    return serving.Trainer(run, parameters, {"keras": keras.__version__, "tensorflow": tf.__version__})


if __name__ == "__main__":
    serving.main(build)
