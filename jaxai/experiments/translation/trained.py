"""A trained translator: text in, text out."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxai import averages, seq2seq
from jaxai.core import PyTree, Workload
from jaxai.seq2seq import vocabulary
from jaxai.seq2seq.decoding import Decoding, Method, check_decoding, with_options
from jaxai.seq2seq.translator import Translation, Translator
from jaxai.seq2seq.vocabulary import BEGIN, END, Vocabulary
from jaxai.trained import Trained, portable

if TYPE_CHECKING:
    from jaxai.experiments.translation.experiment import Bound

__all__ = ["TrainedTranslator", "read_all"]

EXPORTED_LENGTH = 64
"""Default of the largest number of source tokens of an exported program."""


class TrainedTranslator(Trained):
    """A run of sequence to sequence; see `jaxai.load`."""

    @classmethod
    def read(cls, run: Any, workload: Workload, checkpoint: str, config: Any = None) -> "TrainedTranslator":
        """Reads a checkpoint; see `jaxai.load`.

        Args:
          run: settings of the run; its folder is read.
          workload: for one device.
          checkpoint: "best", "latest", or "average": the mean of the parameters of both.
          config: the run's experiment.
        """
        if checkpoint != "average":
            found: TrainedTranslator = super().read(run, workload, checkpoint, config)
            return found
        best, latest = (super(TrainedTranslator, cls).read(run, workload, each) for each in ("best", "latest"))
        mean = seq2seq.decode.average([best.variables, latest.variables])
        extra = {name: value for name, value in (latest.state.extra or {}).items() if name != averages.EMA} | mean
        # Without the optimizer's state: its averages are in the mean already.
        state = latest.state.replace(params=extra.pop("params"), extra=extra, opt_state=())
        return cls(Path(run.workdir), config, workload, state, checkpoint)

    @functools.cached_property
    def source(self) -> Vocabulary:
        """The source's vocabulary."""
        return self._vocabulary("source", 0)

    @functools.cached_property
    def target(self) -> Vocabulary:
        """The target's vocabulary."""
        return self._vocabulary("target", 1)

    def translate(
        self,
        texts: str | Sequence[str],
        n_best: int = 1,
        *,
        method: Method | None = None,
        beam: int | None = None,
        length_penalty: float | None = None,
        coverage_penalty: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        batch_size: int = 64,
        ensemble: Sequence["TrainedTranslator"] = (),
    ) -> Any:
        """Translates texts.

        Args:
          texts: any number of them, or one.
          n_best: translations of each text; without `beam` the beam is at least this wide.
          method: "beam", "greedy" or "sample"; None, also below: the run's.
          beam: hypotheses that the beam search keeps.
          length_penalty: exponent of the length that scores are divided by.
          coverage_penalty: weight of the penalty on source tokens without attention.
          temperature: of sampling.
          top_k: number of the most probable tokens that sampling draws from; 0: all.
          top_p: sampling draws from the most probable tokens that have this probability together.
          seed: of sampling.
          batch_size: texts that are translated together.
          ensemble: further runs of the same data and network, whose probabilities are averaged with those of this one.

        Returns:
          A list of str, or one str for one text; with `n_best` above 1 a list of them for each text, the best first.

        Raises:
          ValueError: an option is out of its range or has no effect, or the runs do not fit together.
          FloatingPointError: the model has parameters that are not finite.
        """
        options = {
            "method": method,
            "beam": beam,
            "length_penalty": length_penalty,
            "coverage_penalty": coverage_penalty,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
        }
        decoding = with_options(self.config.decoding, self.config.workload, n_best, **options)
        one = isinstance(texts, str)
        found = self.translations(
            [texts] if isinstance(texts, str) else texts, n_best, decoding, seed, batch_size, ensemble
        )
        lines = [[each.text for each in best] if n_best > 1 else best[0].text for best in found]
        return lines[0] if one else lines

    def translations(
        self,
        texts: Sequence[str],
        n_best: int = 1,
        decoding: Decoding | None = None,
        seed: int = 0,
        batch_size: int = 64,
        ensemble: Sequence["TrainedTranslator"] = (),
    ) -> list[list[Translation]]:
        """As `translate`, with scores, tokens and attention: for each text the `n_best` translations.

        Args:
          texts: any number of them.
          n_best: number of translations of each text.
          decoding: how to search; None: as the run is configured.
          seed: of sampling.
          batch_size: number of texts that are translated together.
          ensemble: as for `translate`.

        Raises:
          ValueError: a text is no str, or as for `translator`.
          FloatingPointError: the model has parameters that are not finite.
        """
        if not isinstance(texts, Iterable):
            raise ValueError(f"texts is a {type(texts).__name__}; expected a list of str")
        texts = list(texts)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text {number} is a {type(text).__name__}; expected str")
        found = self.translator(decoding, seed, ensemble).translate_all(texts, batch_size, n_best, attention=True)
        for number, best in enumerate(found):
            best[0].require_finite(f"text {number}")
        return found

    def translator(
        self, decoding: Decoding | None = None, seed: int = 0, ensemble: Sequence["TrainedTranslator"] = ()
    ) -> Translator:
        """The translator of these options; the same object for the same options, so that nothing is compiled again.

        Args:
          decoding: how to search; None: as the run is configured.
          seed: of sampling.
          ensemble: as for `translate`.

        Raises:
          ValueError: the vocabularies are not those of the run, the runs have different vocabularies or networks, or
            an option of `decoding` does not fit the network.
        """
        decoding = decoding or self.config.decoding
        key = (decoding, seed, tuple(map(id, ensemble)))
        if key not in self._translators:
            check_decoding(decoding, self.config.workload)
            check_alike([each.config for each in (self, *ensemble)])
            variables = [each.variables for each in (self, *ensemble)]
            longest, config = self.config.longest, self.config.workload
            translator = Translator(config, variables, self.source, self.target, decoding, longest, seed)
            self._translators[key] = translator, ensemble  # which keeps their ids
        return self._translators[key][0]

    @functools.cached_property
    def _translators(self) -> dict[Any, tuple[Translator, Any]]:
        return {}

    def _vocabulary(self, side: str, number: int) -> Vocabulary:
        digests = self.config.tokens.digests
        if len(digests) != 2:
            raise ValueError(f"{self.folder}/config.json has no digests of its vocabularies; repeat the train command")
        found = vocabulary.load(self.folder / f"{side}_vocabulary.json")
        found.require(digests[number], str(self.folder))
        return found

    def _exported(self) -> tuple[Callable[..., PyTree], tuple[PyTree, ...]]:
        """Greedy translation of token ids.

        Source [batch, length] int32, each ended by END and padded with 0, and source_length [batch] int32 -> tokens
        [batch, longest] int32, padded with 0, and their number [batch] int32. `source.encode` and `target.decode`
        convert between text and tokens; their files are in the run folder.
        """
        network = seq2seq.build(portable(self.config.workload))
        variables, decoding = self.variables, self.config.decoding

        def translate(source: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
            step, state = seq2seq.make_step(self.config.workload, [variables], source, length, network=network)
            found = seq2seq.decode.greedy(
                step,
                state,
                batch=source.shape[0],
                max_length=math.ceil(decoding.longest_ratio * source.shape[1]) + decoding.longest_extra,
                limits=jnp.ceil(decoding.longest_ratio * length).astype(np.int32) + decoding.longest_extra,
                begin=BEGIN,
                end=END,
            )
            return found.tokens[:, 0], found.lengths[:, 0]

        longest = min(self.config.longest, EXPORTED_LENGTH)
        return translate, (jax.ShapeDtypeStruct((1, longest), np.int32), jax.ShapeDtypeStruct((1,), np.int32))

    @property
    def _description(self) -> str:
        return f"vocabularies of {len(self.source):,} and {len(self.target):,} tokens"

    @property
    def _sizes(self) -> Mapping[str, int]:
        config = self.config.workload
        return {"source tokens": config.source_vocabulary, "target tokens": config.target_vocabulary}


def read_all(bound: "Sequence[Bound]", checkpoint: str) -> tuple[TrainedTranslator, list[TrainedTranslator]]:
    """The first of several runs that translate together, and the others; runs that do not fit are refused first.

    Raises:
      ValueError: see `TrainedTranslator.translator` and `jaxai.load`.
    """
    check_alike([each.config for each in bound])
    first, *others = [each.trained(checkpoint) for each in bound]
    return first, others


def check_alike(experiments: Sequence[Any]) -> None:
    """Refuses runs that cannot translate together.

    Raises:
      ValueError: their vocabularies or networks differ.
    """
    first, *others = experiments
    for each in others:
        if each.tokens.digests != first.tokens.digests:
            raise ValueError(
                f"{each.run.workdir} has other vocabularies than {first.run.workdir}; give runs of the same data"
            )
        if _network(each.workload) != _network(first.workload):
            raise ValueError(
                f"{each.run.workdir} has another network than {first.run.workdir}; give runs of one preset"
            )


def _network(config: seq2seq.Config) -> dict[str, Any]:
    """The fields that the runs of an ensemble must share."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(seq2seq.Model)}
