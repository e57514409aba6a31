"""Translation sets of TensorFlow Datasets, prepared as array_record, read without TensorFlow."""

from pathlib import Path
from typing import Any

from jaxai.data import split_names, tfds_files
from jaxai.data.text_pairs import ReadSplit, without_empty

READ_AT_ONCE = 1024


def load(name: str, data_dir: str | None, languages: tuple[str, str], empty: str) -> dict[str, ReadSplit]:
    """The pairs of each split of a set: train, validation and test, as far as they exist.

    Args:
      name: such as "wmt16_translate/de-en".
      data_dir: the tfds data_dir; None for $TFDS_DATA_DIR or ~/tensorflow_datasets.
      languages: features of the source and the target, such as ("en", "de").
      empty: for an empty text: "error", or "drop" the pair.

    Raises:
      FileNotFoundError: the set is not prepared, or tensorflow-datasets is not installed.
      ValueError: it has no such languages or no train split, a file is damaged, or a text is not UTF-8 or empty.
    """
    folder = tfds_files.folder(name, data_dir)
    builder = tfds_files.builder(folder)
    features = dict(builder.info.features.items())
    texts = sorted(key for key, feature in features.items() if hasattr(feature, "shape") and _is_text(feature))
    for language in languages:
        if language not in texts:
            raise ValueError(
                f"{folder} has no texts in {language or 'no language'}; expected two of {', '.join(texts) or 'none'}, "
                "chosen with --data.source-language and --data.target-language"
            )
    splits = builder.info.splits
    named = split_names.named(splits, str(folder))
    if "train" not in named:
        raise ValueError(f"{folder} has the splits {', '.join(splits)}; expected train")
    return {part: _read(builder, split, folder, languages, empty) for part, split in named.items()}


def _is_text(feature: Any) -> bool:
    # The dtype of strings depends on the versions of tfds and NumPy: object, str_ or bytes_.
    return tuple(feature.shape) == () and feature.np_dtype in (object, str, bytes)


def _read(builder: Any, split: str, folder: Path, languages: tuple[str, str], empty: str) -> ReadSplit:
    records = tfds_files.Records(builder, split, folder)
    pairs = []
    for start in range(0, records.examples, READ_AT_ONCE):
        positions = list(range(start, min(start + READ_AT_ONCE, records.examples)))
        for index, record in zip(positions, records.read(positions), strict=True):
            source, target = (_text(record[language], f"{records.where}: example {index}") for language in languages)
            pairs.append((source, target))
    return without_empty(pairs, lambda index, side: f"{records.where}, example {index} ({languages[side]})", empty)


def _text(value: Any, example: str) -> str:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise ValueError(f"{example}: not UTF-8 ({error.reason}); prepare the set again") from error
