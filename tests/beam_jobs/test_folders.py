"""Sources that are archives, batches and folders of pictures."""

import hashlib
import io
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from beam_jobs.prepare import prepare
from beam_jobs.sources import cifar10, open_source
from beam_jobs.sources.arrays import unpickle
from beam_jobs.sources.base import Unreadable
from beam_jobs.sources.pictures import crop_and_resize
from pipelines import command
from tests.beam_jobs.announcement import without_announcement
from vdm_lib.data import load_split
from vdm_lib.errors import ConfigError, DataError

RANDOM = np.random.default_rng(0)


def png(pixels, mode=None, **settings):
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, "PNG", **settings)
    return data.getvalue()


def test_all_versions_give_the_same_records(cifar10_versions, small_cifar10, monkeypatch):
    folders, archives = cifar10_versions
    known = {hashlib.md5(path.read_bytes()).hexdigest(): version for version, path in archives.items()}
    monkeypatch.setattr(cifar10, "ARCHIVES", known)
    read = []
    for place in (*folders.values(), *archives.values()):
        source = open_source("cifar10", os.fspath(place))
        records = [*source.read("train", 98, 103), *source.read("test", 7, 9)]
        read.append([(record.index, record.label, record.image.tobytes()) for record in records])
    assert read[0][0][0] == 98
    assert read.count(read[0]) == 4


def test_an_archive_with_another_md5_is_refused(cifar10_versions):
    with pytest.raises(DataError, match=r"binary\.tar\.gz has MD5 [0-9a-f]{32}, the official archives have c32a1d"):
        open_source("cifar10", os.fspath(cifar10_versions[1]["binary"]))
    with pytest.raises(DataError, match=r"nowhere\.tar\.gz does not exist"):
        open_source("cifar10", "nowhere.tar.gz")


def test_the_md5_of_the_official_archives():
    # As <https://www.cs.toronto.edu/~kriz/cifar.html> gives them.
    assert cifar10.ARCHIVES == {
        "c32a1d4ab5d03f1284b67883e8d87530": "binary",
        "c58f30108f718f92721af3b95e74349a": "python",
    }


def test_a_damaged_archive_whose_md5_is_known(cifar10_versions, monkeypatch, tmp_path):
    data = cifar10_versions[1]["binary"].read_bytes()
    for name, damaged in {"short": data[: len(data) // 2], "other": cifar10_versions[1]["python"].read_bytes()}.items():
        path = tmp_path / f"{name}.tar.gz"
        path.write_bytes(damaged)
        monkeypatch.setattr(cifar10, "ARCHIVES", {hashlib.md5(damaged).hexdigest(): "binary"})
        source = open_source("cifar10", os.fspath(path))
        with pytest.raises(DataError, match=r"(cannot be read .*|has no data_batch_1\.bin): download it again"):
            next(source.read("train", 0, 1))


def test_a_pickle_that_would_run_a_program_is_refused():
    class Program:
        def __reduce__(self):
            return os.system, ("true",)

    with pytest.raises(DataError, match=r"batch is no pickle of arrays \(it wants posix\.system"):
        unpickle(pickle.dumps({"data": Program()}), "batch")


@pytest.mark.parametrize("form", ["npz", "pickle"])
def test_imagenet_batches_in_the_order_of_their_numbers(tmp_path, form):
    images = RANDOM.integers(0, 256, (26, 32, 32, 3), np.uint8)
    rows = images.transpose(0, 3, 1, 2).reshape(26, -1)
    batches = {f"train_data_batch_{number}": slice(2 * number - 2, 2 * number) for number in range(1, 12)}
    for name, part in {**batches, "val_data": slice(22, 26)}.items():
        values = {"data": rows[part], "labels": np.arange(1, 27)[part]}
        if form == "npz":
            np.savez(tmp_path / name, **values)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(values))
    source = open_source("imagenet32", os.fspath(tmp_path))
    prepare(source, tmp_path / "out", num_shards=3)
    train = load_split(tmp_path / "out", "train")
    np.testing.assert_array_equal(train.images, images[:22])
    assert train.labels.tolist() == list(range(22))
    np.testing.assert_array_equal(load_split(tmp_path / "out", "test").images, images[22:])
    assert "new release" in json.loads((tmp_path / "out" / "manifest.json").read_text())["data_version"]


def test_imagenet_batches_of_another_size_are_refused(tmp_path):
    for name in ("train_data_batch_1", "val_data"):
        np.savez(tmp_path / name, data=np.zeros((2, 31 * 32 * 3), np.uint8), labels=[1, 2])
    with pytest.raises(DataError, match=r"train_data_batch_1\.npz has rows of \(2976,\) values, imagenet32 has 3072"):
        open_source("imagenet32", os.fspath(tmp_path))


def test_imagenet_pictures_and_one_of_the_wrong_size(tmp_path):
    pictures = RANDOM.integers(0, 256, (6, 32, 32, 3), np.uint8)
    for split, part in (("train_32x32", pictures[:4]), ("valid_32x32", pictures[4:])):
        (tmp_path / split).mkdir()
        for number, picture in enumerate(part):
            (tmp_path / split / f"{number}.png").write_bytes(png(picture))
    source = open_source("imagenet32", os.fspath(tmp_path))
    assert "old release" in source.data_version
    prepare(source, tmp_path / "out")
    np.testing.assert_array_equal(load_split(tmp_path / "out", "train").images, pictures[:4])
    (tmp_path / "train_32x32" / "2.png").write_bytes(png(pictures[0][:31]))
    with pytest.raises(DataError, match=r"imagenet32: train image 2: 2\.png: it has 32x31 pixels, expected 32x32"):
        prepare(source, tmp_path / "again")


def test_the_central_square_is_kept_and_areas_are_averaged():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:4], image[:, 4:6] = 100, 200
    image[0, 2] = 40
    small = crop_and_resize(image, 2)
    assert small[:, :, 0].tolist() == [[85, 200], [100, 200]]
    with pytest.raises(ValueError, match="it has 8x4 pixels, fewer than 5x5"):
        crop_and_resize(image, 5)


def photos(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(np.full((9, 8, 3), number, np.uint8)))


def test_class_folders_become_labels(tmp_path):
    names = [f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("cat", "dog") for i in range(3)]
    photos(tmp_path, names)
    source = open_source("images", os.fspath(tmp_path), 4)
    assert (source.class_names, source.splits) == (("cat", "dog"), {"train": 6, "test": 6})
    for name, record in zip(source.files("train"), source.read("train", 0, 6), strict=True):
        assert record.label == ["cat", "dog"].index(name.split("/")[1])
        assert record.image[0, 0, 0] == names.index(name)
    (tmp_path / "train" / "stray.png").write_bytes(b"")
    with pytest.raises(DataError, match="some images lie in class folders and some do not"):
        open_source("images", os.fspath(tmp_path), 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no image", "it is no image that can be read"),
        (png(np.zeros((9, 8), np.uint8)), "it is a grey image in a colour folder"),
        (png(np.zeros((9, 8, 4), np.uint8)), "its pixels are RGBA"),
        (png(np.zeros((9, 8), np.uint16)), "its pixels are I;16, expected grey or RGB with 8 bits"),
        (png(np.zeros((9, 8, 3), np.uint8), transparency=(0, 0, 0)), "its pixels are RGB with transparency"),
        (png(np.zeros((9, 8, 3), np.uint8), "P", transparency=0), "its pixels are P with transparency"),
        (png(RANDOM.integers(0, 256, (9, 8, 3), np.uint8))[:-60], "it is no image that can be read"),
        (png(np.zeros((2, 2, 3), np.uint8)), "fewer than 4x4"),
    ],
)
def test_a_bad_picture_names_its_file(tmp_path, data, reason, capsys):
    folder = tmp_path / "photos"
    photos(folder, [f"{number}.png" for number in range(40)])
    name = open_source("images", os.fspath(folder), 4).files("train")[20]
    (folder / name).write_bytes(data)
    words = ["prepare", "images", "--source", os.fspath(folder), "--size", "4", "--out", os.fspath(tmp_path / "out")]
    assert command.main(words) == 1
    error = without_announcement(capsys.readouterr().err)
    assert error.count("\n") == 1
    assert f"images: train image 20: {name}: " in error
    assert reason in error
    assert not (tmp_path / "out").exists()
    bad = [
        each
        for each in open_source("images", os.fspath(folder), 4).read("train", 0, 36)
        if isinstance(each, Unreadable)
    ]
    assert len(bad) == 1


def test_a_palette_is_colour_and_paths_may_hold_anything(tmp_path):
    folder = tmp_path / "ph otos ünïcode 写真"
    photos(folder, [f"{number}.png" for number in range(9)])
    colours = 51 * RANDOM.integers(0, 6, (4, 3), np.uint8)  # those of the palette that Pillow converts to
    pixels = colours[RANDOM.integers(0, 4, (4, 4))]
    (folder / "9.png").write_bytes(png(pixels, "P"))
    source = open_source("images", os.fspath(folder), 4)
    prepare(source, tmp_path / "öut put")
    read = {split: load_split(tmp_path / "öut put", split).images for split in ("train", "test")}
    assert sum((image == pixels).all() for images in read.values() for image in images) == 1


def test_a_link_to_nothing_is_a_bad_image_and_one_in_a_circle_an_error(tmp_path):
    photos(tmp_path / "photos", [f"{number}.png" for number in range(12)])
    (tmp_path / "photos" / "gone.png").symlink_to("nowhere")
    source = open_source("images", os.fspath(tmp_path / "photos"), 4)
    with pytest.raises(DataError, match=r"gone\.png: it cannot be read \(No such file or directory\)"):
        prepare(source, tmp_path / "out")
    manifest = prepare(source, tmp_path / "out", max_bad=1)
    assert sum(split.num_images for split in manifest.splits.values()) == 12
    (tmp_path / "photos" / "again").symlink_to(tmp_path)
    with pytest.raises(DataError, match="again is a link to a folder that it lies in: remove it"):
        open_source("images", os.fspath(tmp_path / "photos"), 4)


def test_a_split_of_bad_images_only(tmp_path):
    photos(tmp_path / "photos", [f"{number}.png" for number in range(12)])
    for name in open_source("images", os.fspath(tmp_path / "photos"), 4).files("test"):
        (tmp_path / "photos" / name).write_text("no image")
    with pytest.raises(DataError, match="images: test split: all of its 2 images are bad"):
        prepare(open_source("images", os.fspath(tmp_path / "photos"), 4), tmp_path / "out", max_bad=9)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pictures(tmp_path, count):
    photos(tmp_path, [f"{number}.png" for number in range(count)])
    with pytest.raises(DataError, match=f"has too few images: 0 train, {count} test"):
        open_source("images", os.fspath(tmp_path), 4)


def test_only_local_paths_and_buckets(tmp_path):
    with pytest.raises(DataError, match=r"^http://x/y: http:// cannot be used, only local paths and gs://$"):
        open_source("images", "http://x/y", 4)
    with pytest.raises(DataError, match=r"^s3://b/x: s3:// cannot be used"):
        prepare(open_source("digits"), "s3://b/x")
    with pytest.raises(DataError, match=r"^s3://b/x: s3:// cannot be used"):
        load_split("s3://b/x", "train")


def test_size_is_for_images_only():
    with pytest.raises(ConfigError, match="digits takes no --size"):
        open_source("digits", None, 4)
    with pytest.raises(ConfigError, match="images needs --size"):
        open_source("images", ".")
