"""Dates in common formats to ISO 8601: a small LSTM with attention; needs no data.

Command:  jaxai train configs/dates.py
Hardware: 2 CPU cores, float32.  Time: 1 min 21 s.
Result:   exact match 100 % of 2,000 test dates (1 run).
"""

from jaxai.data.text import TextData
from jaxai.experiments.translation import Experiment, Tokens
from jaxai.runtime.config import Run
from jaxai.seq2seq import Config, Decoding, Optimizer

config = Experiment(
    workload=Config(
        hidden=96,
        embed=48,
        optimizer=Optimizer("adam", 4e-3, schedule="cosine", final_fraction=0.05, clip_norm=1.0),
    ),
    data=TextData("dates"),
    tokens=Tokens("character", batch=2_048, buckets=3),
    decoding=Decoding(beam=2),
    epochs=3,
    expected=0.999,
    run=Run(workdir="runs/dates", mode="shard_map"),
)
