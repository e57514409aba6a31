"""Sets as TensorFlow Datasets prepares them, written without it."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from jaxai.data import Data


def message(number, content):
    """A length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def varint(value):
    value, out = value % 2**64, b""
    while value > 127:
        value, out = value >> 7, out + bytes([value & 127 | 128])
    return out + bytes([value])


def example(image, label):
    """A serialized tf.train.Example, as tfds writes it: a PNG and an int64."""
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    fields = {b"image": message(1, message(1, png.getvalue())), b"label": message(3, message(1, varint(label)))}
    return message(1, b"".join(message(1, message(1, key) + message(2, value)) for key, value in fields.items()))


def prepared(root, splits, dimensions=("4", "6", "3"), classes=("cat", "dog", "bird"), name="pets", named=True):
    """A prepared set, written without tfds; without the file of its class names unless `named`."""
    array_record = pytest.importorskip("array_record.python.array_record_module")
    folder, short = root / name / "1.0.0", name.partition("/")[0]
    folder.mkdir(parents=True)
    features = "tensorflow_datasets.core.features"
    image = {"shape": {"dimensions": dimensions}, "dtype": "uint8", "encodingFormat": "png"}
    described = {
        "image": {"pythonClassName": f"{features}.image_feature.Image", "image": image},
        "label": {
            "pythonClassName": f"{features}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(classes))},
        },
    }
    whole = {"pythonClassName": f"{features}.features_dict.FeaturesDict", "featuresDict": {"features": described}}
    (folder / "features.json").write_text(json.dumps(whole))
    if named:
        (folder / "label.labels.txt").write_text("\n".join(classes) + "\n")
    info = {"name": short, "version": "1.0.0", "fileFormat": "array_record", "splits": []}
    for split, examples in splits.items():
        writer = array_record.ArrayRecordWriter(
            str(folder / f"{short}-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for pixels, label in examples:
            writer.write(example(pixels, label))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        shards = {"name": split, "shardLengths": [str(len(examples))], "filepathTemplate": template}
        info["splits"].append(shards)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return Data(f"tfds:{name}", dir=str(root), cache="off")


def pets(count, height=4, width=6, label=None):
    random = np.random.default_rng(count)
    return [
        (random.integers(0, 256, (height, width, 3), np.uint8), index % 3 if label is None else label)
        for index in range(count)
    ]
