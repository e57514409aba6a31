"""Sequence to sequence in Keras on TensorFlow, float32, on the CPU.

python -m benchmarks.peers.keras_seq2seq --task train --form xla
"""

import itertools
import os
from typing import Any

from benchmarks.peers import seq2seq_tasks
from benchmarks.peers.seq2seq_tasks import BEGIN, Task
from benchmarks.peers.serving import Trainer

FORMS = ("default", "xla")
"""The layers' own settings, as compiled functions; `use_cudnn=False` and XLA (jit_compile)."""


def build(task: Task, form: str) -> Trainer:
    """The model in Keras's layers, an update or a whole decoding in one `tf.function`."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf
    from keras import layers

    xla = form == "xla"
    vocabulary, beam = task.vocabulary, task.beam

    def lstm() -> Any:
        cudnn = {"use_cudnn": False} if xla else {}
        return layers.LSTM(task.hidden, return_sequences=True, return_state=True, **cudnn)

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.source, self.target = (layers.Embedding(vocabulary, task.embed) for _ in range(2))
            self.encoder, self.decoder = lstm(), lstm()
            self.score, self.combine = (layers.Dense(task.hidden, use_bias=False) for _ in range(2))
            self.logits = layers.Dense(vocabulary)

        def call(self, source: Any, inputs: Any) -> Any:
            memory, keys, state = self.encode(source)
            states, *_ = self.decoder(self.target(inputs), initial_state=state)
            return self.attend(states, memory, keys)

        def encode(self, source: Any) -> Any:
            memory, *state = self.encoder(self.source(source))
            return memory, self.score(memory), state

        def attend(self, states: Any, memory: Any, keys: Any) -> Any:
            """states [batch, queries, hidden] -> logits [batch, queries, vocabulary]."""
            context = tf.nn.softmax(states @ tf.transpose(keys, (0, 2, 1))) @ memory
            return self.logits(tf.tanh(self.combine(tf.concat([context, states], -1))))

        def step(self, tokens: Any, state: Any, memory: Any, keys: Any) -> tuple[Any, Any]:
            """tokens [rows] -> (logits [batch, rows / batch, vocabulary], the state after)."""
            output, state = self.decoder.cell(self.target(tokens), state)
            return self.attend(tf.reshape(output, (task.batch_size, -1, task.hidden)), memory, keys), state

    model = Model()
    adam = keras.optimizers.Adam(seq2seq_tasks.LEARNING_RATE)
    words, wanted = seq2seq_tasks.random_data(task)
    model(words[0], wanted[0])
    adam.build(model.trainable_variables)

    @tf.function(jit_compile=xla)
    def update(source: Any, inputs: Any, targets: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(source, inputs)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits))
        adam.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    @tf.function(jit_compile=xla)
    def greedy(source: Any, *_: Any) -> Any:
        memory, keys, state = model.encode(source)
        tokens = tf.fill([task.batch_size], BEGIN)
        chosen = tf.TensorArray(tf.int32, task.length, element_shape=[task.batch_size])
        for time in tf.range(task.length):
            logits, state = model.step(tokens, state, memory, keys)
            tokens = tf.argmax(logits[:, 0], -1, tf.int32)
            chosen = chosen.write(time, tokens)
        return tf.transpose(chosen.stack())

    @tf.function(jit_compile=xla)
    def beam_search(source: Any, *_: Any) -> Any:
        """The hypotheses are the rows of the state and the queries of attention: the memory is never tiled."""
        sentences = task.batch_size
        memory, keys, state = model.encode(source)
        state = [tf.repeat(part, beam, 0) for part in state]
        tokens = tf.fill([sentences * beam], BEGIN)
        history = tf.zeros((sentences * beam, task.length), tf.int32)
        first_row = tf.range(0, sentences * beam, beam)[:, None]
        scores = tf.tile(tf.constant([[0.0] + [-1e9] * (beam - 1)]), (sentences, 1))
        for time in tf.range(task.length):
            logits, state = model.step(tokens, state, memory, keys)
            totals = scores[:, :, None] + tf.nn.log_softmax(logits)
            scores, choice = tf.math.top_k(tf.reshape(totals, (sentences, beam * vocabulary)), beam)
            rows = tf.reshape(first_row + choice // vocabulary, [-1])
            tokens = tf.reshape(choice % vocabulary, [-1])
            state = [tf.gather(part, rows) for part in state]
            here = tf.one_hot(time, task.length, dtype=tf.int32)
            history = tf.gather(history, rows) + tokens[:, None] * here
        return tf.reshape(history, (sentences, beam, -1))[:, 0]

    function = {"train": update, "greedy": greedy, "beam": beam_search}[task.what]
    sets = zip(words, seq2seq_tasks.shifted(wanted), wanted, strict=True)
    batches = itertools.cycle([tuple(tf.constant(array) for array in batch) for batch in sets])

    def run(steps: int) -> None:
        for batch in itertools.islice(batches, steps):
            result = function(*batch)
        result.numpy()

    return Trainer(run, model.count_params(), {"keras": keras.__version__, "tensorflow": tf.__version__})


if __name__ == "__main__":
    seq2seq_tasks.main(build, FORMS)
