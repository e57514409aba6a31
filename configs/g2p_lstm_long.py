"""Pronunciation from spelling on the CMU dictionary, the small network, trained longer.

Command:  jaxai train configs/g2p_lstm_long.py
Hardware: 1 CPU core, float32.  Time: 32 min, with two other jobs on the machine.
Result:   word error rate 29.3 % (95 %: 28.5 to 30.1), phoneme error rate 6.96 %, on the 12,023 test words (1 run).
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
    epochs=5,
    expected=0.30,
    run=Run(workdir="runs/g2p_lstm_long", mode="shard_map"),
)
