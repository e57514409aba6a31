"""Sequence to sequence with attention, as pure functions.

>>> from jaxai import seq2seq
>>> workload = seq2seq.make(seq2seq.Config(source_vocabulary=30, target_vocabulary=40))
>>> batch = seq2seq.make_batch([[5, 6], [7]], [[6, 5], [7]])
>>> batch["target"].tolist()
[[6, 5, 2], [7, 2, 0]]
"""

from jaxai.optimizer import Optimizer
from jaxai.seq2seq import attention, decode
from jaxai.seq2seq.batches import make_batch
from jaxai.seq2seq.bucketed import Shape, bucketed
from jaxai.seq2seq.checks import check_values
from jaxai.seq2seq.decoding import Decoding
from jaxai.seq2seq.losses import Loss, cross_entropy
from jaxai.seq2seq.model import Model, Network, Seq2Seq, build
from jaxai.seq2seq.step import METRICS, Config, example_batch, make, make_predict, parameters, variables
from jaxai.seq2seq.translator import Translation, Translator, make_step
from jaxai.seq2seq.vocabulary import BEGIN, END, PAD, UNKNOWN

__all__ = [
    "BEGIN",
    "END",
    "METRICS",
    "PAD",
    "UNKNOWN",
    "Config",
    "Decoding",
    "Loss",
    "Model",
    "Network",
    "Optimizer",
    "Seq2Seq",
    "Shape",
    "Translation",
    "Translator",
    "attention",
    "bucketed",
    "build",
    "check_values",
    "cross_entropy",
    "decode",
    "example_batch",
    "make",
    "make_batch",
    "make_predict",
    "make_step",
    "parameters",
    "variables",
]
