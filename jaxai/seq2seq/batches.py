"""Token sequences of any lengths as the arrays of a batch."""

from collections.abc import Sequence

import numpy as np

from jaxai.seq2seq.vocabulary import BEGIN, END, PAD

__all__ = ["make_batch", "pad"]


def make_batch(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]] | None = None
) -> dict[str, np.ndarray]:
    """A batch from token sequences of any lengths: END is appended, and PAD fills the rows.

    >>> make_batch([[5, 6], [7]])
    {'source': array([[5, 6, 2],
           [7, 2, 0]], dtype=int32), 'source_length': array([3, 2], dtype=int32)}

    Args:
      sources: the tokens of each source, without PAD, BEGIN and END.
      targets: the tokens of each target; None: a batch to decode.

    Returns:
      "source" [batch, S], "source_length" [batch], and the same of the target, int32.

    Raises:
      ValueError: there are no sequences, different numbers of sources and targets, or a token is no integer or is PAD,
        BEGIN or END.
    """
    sides = {"source": sources} if targets is None else {"source": sources, "target": targets}
    if len({len(side) for side in sides.values()}) > 1 or not len(sources):
        counts = " and ".join(f"{len(side)} {name}s" for name, side in sides.items())
        raise ValueError(f"the batch has {counts}; expected the same number of both, at least 1")
    batch: dict[str, np.ndarray] = {}
    for name, side in sides.items():
        rows = [np.asarray(row) for row in side]
        for number, row in enumerate(rows):
            if row.ndim != 1 or (row.size and not np.issubdtype(row.dtype, np.integer)):
                raise ValueError(f"{name} {number} is {row.dtype}{list(row.shape)}; expected a sequence of integers")
            if (reserved := np.isin(row, (PAD, BEGIN, END)) | (row < 0)).any():
                raise ValueError(
                    f"{name} {number} has the token {row[reserved.argmax()]}; expected tokens from {END + 1} on: "
                    f"{PAD}, {BEGIN} and {END} are PAD, BEGIN and END"
                )
        batch |= pad(name, [[*row, END] for row in rows])
    return batch


def pad(side: str, sequences: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Sequences that end with END as the arrays of one side of a batch.

    >>> pad("target", [[5, 2], [2]])["target"].tolist()
    [[5, 2], [2, 0]]

    Args:
      side: "source" or "target".
      sequences: of tokens, END last.

    Returns:
      `side` [batch, longest] int32, padded with PAD, and `side`_length [batch] int32.
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    padded = np.full((len(sequences), int(lengths.max())), PAD, np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(sequences)
    return {side: padded, f"{side}_length": lengths}
