"""Tables and pictures of the test set's translations, which the report shows."""

from collections.abc import Sequence

import numpy as np

from jaxai.data.text_pairs import Pairs
from jaxai.experiments.translation import scores
from jaxai.report import pictures
from jaxai.runtime.run_folder import RunFolder
from jaxai.seq2seq.translator import Translation

__all__ = ["draw"]

HEAT_MAPS, WIDEST = 6, 40
"""Number of sentences whose attention is shown, and their largest number of source tokens."""
WORST, RANDOM = 10, 10
"""Number of examples with the worst score, and of random ones."""


def draw(found: Sequence[Translation], pairs: Pairs, folder: RunFolder, lowercase: bool, seed: int) -> None:
    """Writes examples with their references, the score by the source's length, and heat maps of the attention.

    Args:
      found: the translations of the test set.
      pairs: the data.
      folder: of the run.
      lowercase: whether scores ignore case.
      seed: of the random examples.
    """
    predicted, answers, sources = [each.text for each in found], pairs.test.answers(), pairs.test.sources
    lengths = scores.by_length(pairs.task, predicted, answers, sources, lowercase=lowercase)
    shown = scores.examples(pairs.task, predicted, answers, sources, RANDOM, WORST, seed, lowercase)
    folder.write_json("tables/scores_by_length.json", scores.as_table("Scores by the source's length", lengths))
    folder.write_json("tables/examples.json", scores.as_table("Translations of the test set", shown))
    if not pictures.available():
        return
    from jaxai.experiments.translation import attention_pictures

    folder.pictures.mkdir(exist_ok=True)
    captions = {"scores_by_length.png": "The main score by the length of the source"}
    unit = "words" if pairs.task == "translation" else "characters"
    attention_pictures.scores_by_length(lengths, folder.pictures / "scores_by_length.png", unit=unit)
    maps = [
        attention_pictures.Alignment(each.attention, each.source_pieces, each.pieces)
        for each in found
        if each.attention is not None and len(each.pieces) > 1 and len(each.source_pieces) <= WIDEST
    ]
    if maps:
        chosen = np.random.default_rng(seed).permutation(len(maps))[:HEAT_MAPS]
        attention_pictures.heat_maps([maps[i] for i in chosen], folder.pictures / "attention.png")
        captions["attention.png"] = "Attention: a row for each output token, a column for each source token"
    folder.write_json("pictures/captions.json", captions)
