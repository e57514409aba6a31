"""Pronunciation from spelling on the CMU dictionary: a bidirectional LSTM with attention, 1.2 M parameters.

Command:  jaxai train configs/g2p_lstm.py
Hardware: 2 CPU cores, float32.  Time: 7 min 03 s.
Result:   word error rate 32.6 % (95 %: 31.8 to 33.4), phoneme error rate 7.86 %, on the 12,023 test words (1 run).
"""

from jaxai.data.text import TextData
from jaxai.experiments.translation import Experiment, Tokens
from jaxai.runtime.config import Run
from jaxai.seq2seq import Config, Optimizer

config = Experiment(
    workload=Config(
        hidden=256,
        embed=128,
        dropout=0.1,
        optimizer=Optimizer("adam", 2e-3, schedule="cosine", final_fraction=0.05, warmup_steps=200, clip_norm=1.0),
    ),
    data=TextData("cmudict"),
    tokens=Tokens("character", target_kind="word", batch=1_024, buckets=8),
    epochs=3,
    expected=0.36,
    run=Run(workdir="runs/g2p_lstm", mode="shard_map"),
)
