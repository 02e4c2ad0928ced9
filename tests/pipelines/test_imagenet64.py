import json

import numpy as np
import pytest
from PIL import Image

from pipelines import command


@pytest.mark.slow
def test_imagenet64_is_prepared_trained_and_measured(tmp_path, capsys):
    """The original's config of this name cannot run: its data set is unknown to it, and it is made for 32x32."""
    random = np.random.default_rng(0)
    for folder, count in (("train_64x64", 6), ("valid_64x64", 2)):
        (tmp_path / "png" / folder).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "png" / folder / f"{number:05d}.png")
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    small = ["model.n_layer=1", "model.n_embd=64", "train.batch_size=2", "train.steps=2", "eval.passes=2"]

    assert command.main(["prepare", "imagenet64", "--source", str(tmp_path / "png"), "--out", data]) == 0
    assert command.main(["train", "imagenet64", *small, "--data", data, "--workdir", run]) == 0
    capsys.readouterr()
    assert command.main(["eval", "--workdir", run, "--data", data, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["reports"][0]
    assert (report["num_images"], report["step"]) == (2, 2)
    # Noise of 256 equally frequent levels has 8 bits a pixel, and nothing can be below.
    assert 8 < report["bpd"] < 1000
