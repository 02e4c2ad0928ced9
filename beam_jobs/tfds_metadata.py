"""The files by which `tfds.builder_from_directory` reads a data directory, written without TensorFlow."""

import json
from typing import Any

from vdm_lib.files.records import Manifest

_FEATURES = "tensorflow_datasets.core.features."


def _tensor(class_name: str, dtype: str, shape: tuple[int, ...], encoding: str = "none") -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {
        "pythonClassName": _FEATURES + class_name,
        "tensor": {"dtype": dtype, "encoding": encoding, "shape": dimensions},
    }


def tfds_files(manifest: Manifest) -> dict[str, bytes]:
    """Return the metadata by file name.

    The images are a Tensor feature of raw bytes: TFDS's Image feature would want a PNG. Its metadata knows no
    version of ours, so every data set is version 1.0.0 of its name.
    """
    features = {
        "image": _tensor("tensor_feature.Tensor", "uint8", manifest.image_shape, "bytes"),
        "index": _tensor("scalar.Scalar", "int64", ()),
        "label": {
            "pythonClassName": _FEATURES + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(manifest.num_classes)},
        },
        "shape": _tensor("tensor_feature.Tensor", "int64", (3,)),
    }
    splits = [
        {
            "name": name,
            "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
            "numBytes": str(sum(shard.num_bytes for shard in split.shards)),
            "shardLengths": [str(shard.num_images) for shard in split.shards],
        }
        for name, split in manifest.splits.items()
    ]
    info = {
        "name": manifest.name,
        "version": "1.0.0",
        "description": manifest.source,
        "fileFormat": "tfrecord",
        "splits": splits,
    }
    dictionary = {
        "pythonClassName": _FEATURES + "features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    return {
        "dataset_info.json": _json(info),
        "features.json": _json(dictionary),
        "label.labels.txt": ("\n".join(manifest.class_names) + "\n").encode(),
    }


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
