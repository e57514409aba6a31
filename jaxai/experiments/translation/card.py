"""The facts in a translator's model card."""

from jaxai import seq2seq
from jaxai.core import PyTree
from jaxai.runtime.model_card import Model

EXAMPLES = {"translation": "A sentence.", "pronunciation": "hello", "transformation": "3 May 2021"}
"""A text to write in the card, by the task."""


def describe(config: seq2seq.Config, params: PyTree, task: str, example: str | None = None) -> Model:
    """The facts of a trained encoder-decoder.

    Args:
      config: resolved.
      params: trained parameters.
      task: "translation", "pronunciation" or "transformation".
      example: a source of the data; None: one that fits the task.
    """
    parts = [f"{config.cell}, {config.layers} layers of {config.hidden} units, embeddings of {config.embed}"]
    parts += [f"attention {config.attention}"]
    parts += ["bidirectional encoder"] if config.bidirectional else []
    text = EXAMPLES.get(task, EXAMPLES["translation"]) if example is None else example
    sizes = {"source_vocabulary.json": config.source_vocabulary, "target_vocabulary.json": config.target_vocabulary}
    return Model(
        kind=f"Encoder-decoder for {task}",
        network=f"Network: {', '.join(parts)}",
        params=params,
        inputs={"texts": "a list of strings"},
        outputs={"translations": "a list of strings"},
        usage=(f"translations = run.translate([{text!r}])",),
        commands=("jaxai translate RUN --input sentences.txt", "jaxai evaluate RUN", "jaxai report RUN"),
        pipeline="translation",
        tags=("seq2seq", task),
        vocabularies=sizes,
    )
