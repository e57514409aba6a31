"""The floor of the sequence-to-sequence models: matrix products of their LSTM's shapes alone, float32, on the CPU.

python -m benchmarks.peers.matmul_seq2seq --task train
"""

from benchmarks.peers import seq2seq_tasks
from benchmarks.peers.seq2seq_tasks import Task
from benchmarks.peers.serving import Trainer

PAIRS = 20
"""Of products in a step, one after another."""


def build(task: Task, form: str) -> Trainer:
    """Rows times all weights of an LSTM, as forward, and the result times weights of the other shape, as backward."""
    import jax
    from jax import lax

    width, gates = task.embed + task.hidden, 4 * task.hidden
    rows, forward, backward = (
        jax.random.normal(jax.random.key(number), shape) / shape[0] ** 0.5
        for number, shape in enumerate([(task.rows, width), (width, gates), (gates, width)])
    )
    multiply = jax.jit(lambda x, w, v: lax.fori_loop(0, PAIRS, lambda _, x: (x @ w) @ v, x))

    def run(steps: int) -> None:
        for _ in range(steps):
            result = multiply(rows, forward, backward)
        jax.block_until_ready(result)

    return Trainer(run, 0, {"jax": jax.__version__})


def flops(task: Task) -> int:
    """Of a step."""
    return PAIRS * 2 * 2 * task.rows * (task.embed + task.hidden) * 4 * task.hidden


if __name__ == "__main__":
    seq2seq_tasks.main(build, per_step=flops)
