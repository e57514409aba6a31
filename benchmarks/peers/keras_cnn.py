"""The textbook CNN in Keras on TensorFlow, float32, on the CPU.

python -m benchmarks.peers.keras_cnn --batch-size 128
"""

import os

from benchmarks.peers import serving


def build(batch_size: int, steps: int) -> serving.Trainer:
    """The network as Keras's tutorials write it, compiled by Keras, fed by `tf.data` from memory."""
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
    # Measured: XLA (jit_compile) halves the rate on CPU; several steps in one execution are the fastest form.
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, jit_compile=False, steps_per_execution=steps)
    images, labels = serving.random_data(batch_size)
    pairs = images.reshape(-1, batch_size, 32, 32, 3), labels.reshape(-1, batch_size)
    batches = iter(tf.data.Dataset.from_tensor_slices(pairs).cache().repeat().prefetch(2))
    network.make_train_function()

    def run(_: int) -> None:
        # The compiled function of `fit`, without what each call of `fit` costs before its first step.
        float(network.train_function(batches)["loss"])

    return serving.Trainer(run, network.count_params(), {"keras": keras.__version__, "tensorflow": tf.__version__})


if __name__ == "__main__":
    serving.main(build)
