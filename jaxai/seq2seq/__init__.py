"""Sequence to sequence with attention, as pure functions.

>>> from jaxai import seq2seq
>>> workload = seq2seq.make(seq2seq.Config(source_vocabulary=30, target_vocabulary=40))
>>> workload._fields
('init', 'train_step', 'eval_step', 'gradients')
"""

from jaxai.optimizer import Optimizer
from jaxai.seq2seq import attention, decode
from jaxai.seq2seq.bucketed import Shape, bucketed
from jaxai.seq2seq.checks import check_values
from jaxai.seq2seq.decoding import Decoding
from jaxai.seq2seq.model import Model, Seq2Seq
from jaxai.seq2seq.step import Config, make, make_predict, parameters
from jaxai.seq2seq.translator import Translation, Translator, make_step

__all__ = [
    "Config",
    "Decoding",
    "Model",
    "Optimizer",
    "Seq2Seq",
    "Shape",
    "Translation",
    "Translator",
    "attention",
    "bucketed",
    "check_values",
    "decode",
    "make",
    "make_predict",
    "make_step",
    "parameters",
]
