"""The textbook CNN in Keras on TensorFlow, float32, on the CPU.

python -m benchmarks.peers.keras_cnn --batch-size 128
"""

import itertools
import os

from benchmarks.peers import serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """The network as Keras's tutorials write it, compiled by Keras, with batches that wait in memory."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf
    from keras import layers

    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"), layers.Flatten(),
            layers.Dense(64, activation="relu"), layers.Dense(10),
        ]
    )  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, jit_compile=JIT)
    images, labels = serving.random_data(batch_size)
    pairs = [
        (tf.constant(images[first : first + batch_size]), tf.constant(labels[first : first + batch_size]))
        for first in range(0, len(images), batch_size)
    ]
    batches = itertools.cycle(pairs)
    network.make_train_function()

    def run(steps: int) -> None:
        # The compiled function of `fit`, without the 50 ms that each call of `fit` costs before its first step.
        for pair in itertools.islice(batches, steps):
            logs = network.train_function(iter([pair]))
        float(logs["loss"])

    return serving.Trainer(run, network.count_params(), {"keras": keras.__version__, "tensorflow": tf.__version__})


if __name__ == "__main__":
    serving.main(build)
