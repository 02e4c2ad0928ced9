"""Made-up data sets in the official forms."""

import pickle
import tarfile

import numpy as np
import pytest

from beam_jobs.sources import cifar10

IMAGES_PER_FILE = 100


@pytest.fixture(scope="session")
def cifar10_versions(tmp_path_factory):
    """Lay out the same made-up CIFAR-10 as both versions, unpacked and packed: folders and archives by version.

    Its files hold 100 images each: at the official size packing alone takes 15 s.
    """
    root = tmp_path_factory.mktemp("cifar10")
    folders = {"binary": root / "cifar-10-batches-bin", "python": root / "cifar-10-batches-py"}
    for folder in folders.values():
        folder.mkdir()
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES_PER_FILE, 3072), np.uint8)
    for number, name in enumerate(names):
        rows = np.roll(pixels, number, axis=0)
        labels = (np.arange(IMAGES_PER_FILE) + number) % 10
        binary = np.concatenate([labels[:, None].astype(np.uint8), rows], axis=1)
        (folders["binary"] / f"{name}.bin").write_bytes(binary.tobytes())
        batch = {b"data": rows, b"labels": labels.tolist(), b"batch_label": b"made up"}
        (folders["python"] / name).write_bytes(pickle.dumps(batch, protocol=2))
    archives = {}
    for version, folder in folders.items():
        archives[version] = root / f"{version}.tar.gz"
        with tarfile.open(archives[version], "w:gz", compresslevel=1) as archive:
            archive.add(folder, folder.name)
    return folders, archives


@pytest.fixture
def small_cifar10(monkeypatch):
    """Let the source of CIFAR-10 accept files of so few images."""
    monkeypatch.setattr(cifar10, "_IMAGES_PER_FILE", IMAGES_PER_FILE)
