import hashlib
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.duplicates import DigestFiles, Duplicates


def by_comparing_all(splits):
    """What `find` should return for digests as bytes, by comparing each with all before it."""
    within, first = dict.fromkeys(splits, 0), None
    for split, images in splits.items():
        digests = list(images.values())
        for place, (index, digest) in enumerate(images.items()):
            if digest in digests[:place]:
                within[split] += 1
                original = list(images)[digests.index(digest)]
                first = first or f"{split} image {index} has the pixels of {split} image {original}"
    train = {digest: index for index, digest in reversed(splits["train"].items())}
    shared = [(index, train[digest]) for index, digest in splits["test"].items() if digest in train]
    if shared and first is None:
        first = f"test image {shared[0][0]} has the pixels of train image {shared[0][1]}"
    return Duplicates(within, len(shared), first)


def found(splits, at_once):
    with tempfile.TemporaryDirectory() as folder:
        files = DigestFiles(Path(folder))
        for split, images in splits.items():
            digests = np.frombuffer(b"".join(images.values()), np.uint8).reshape(-1, 32)
            indices = np.array(list(images), np.int64)
            for start in range(0, len(indices), at_once):
                files.add(split, digests[start : start + at_once], indices[start : start + at_once])
        return files.find(list(splits))


def digest_of(number):
    # Zeros at the end are where NumPy's strings and bytes differ; first bits alike put digests into one file.
    return bytes([number, 0]) + bytes(30) if number % 3 else hashlib.sha256(bytes([number])).digest()


images = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=30)


def indexed(pairs):
    """Images with rising indices that leave some out, as rejected ones do."""
    indices = np.cumsum([step for _, step in pairs]) - 1
    return {int(index): digest_of(number) for index, (number, _) in zip(indices, pairs, strict=True)}


@settings(deadline=None)
@given(train=images, test=images, at_once=st.integers(1, 7))
def test_duplicates_are_those_that_comparing_all_images_finds(train, test, at_once):
    splits = {"test": indexed(test), "train": indexed(train)}
    assert found(splits, at_once) == by_comparing_all(splits)


def test_only_the_first_images_pair_is_named():
    same, other = digest_of(3), digest_of(6)
    splits = {"test": {0: other}, "train": {2: same, 5: other, 7: other, 9: same}}
    expected = "train image 7 has the pixels of train image 5"
    assert found(splits, 2) == Duplicates({"test": 0, "train": 2}, 1, expected)
