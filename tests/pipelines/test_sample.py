import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import configs
import pipelines.sample
from pipelines import command
from vdm_lib.images import grid
from vdm_lib.model import VDM
from vdm_lib.restore import restore_ema
from vdm_lib.sampling import sample


@pytest.fixture(scope="module")
def run(debug_run, tmp_path_factory) -> Path:
    return Path(shutil.copytree(debug_run, tmp_path_factory.mktemp("sample") / "run"))


def test_the_picture_shows_what_the_library_draws_in_one_piece(run, tmp_path):
    out = tmp_path / "s.png"
    assert command.main(["sample", "--workdir", str(run), "--num", "4", "--steps", "3", "--out", str(out)]) == 0
    config = configs.load("debug")
    params = restore_ema(str(run), config).params
    model = VDM.from_config(config)
    images = jax.jit(lambda params: sample(model, params, jax.random.key(0), 4, 3))(params)
    expected = grid(np.asarray(images), config.data.num_levels)
    picture = np.asarray(Image.open(out))
    factor = picture.shape[1] // expected.shape[1]
    # Compiled otherwise, a pixel between two levels may fall to the other side.
    assert np.mean(picture[::factor, ::factor] != expected) < 0.01


def test_missing_directories_are_made(run, tmp_path):
    out = tmp_path / "x" / "y" / "s.png"
    assert command.main(["sample", "--workdir", str(run), "--num", "3", "--steps", "2", "--out", str(out)]) == 0
    # Three images of 8x8 in two columns, with a line around each and an empty cell in the colour of the lines.
    picture = np.asarray(Image.open(out))
    factor = picture.shape[1] // 19
    assert picture.shape == (19 * factor, 19 * factor, 3)
    assert (picture[10 * factor :, 10 * factor :] == picture[0, 0]).all()


@pytest.mark.parametrize(
    ("out", "code", "message"),
    [
        ("samples", 2, "ends in .png"),
        ("samples.jpg", 2, "ends in .png"),
        (".png", 2, "name ends in .png"),
        ("directory.png", 2, "it is a directory"),
        ("file/s.png", 1, "Not a directory"),
        ("file/x/s.png", 1, "Not a directory"),
        ("/proc/x/s.png", 1, "cannot write"),
    ],
)
def test_a_place_that_cannot_be_written_is_seen_before_sampling(run, out, code, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipelines.sample, "_draw", lambda *_: pytest.fail("it sampled"))
    (tmp_path / "file").write_text("")
    (tmp_path / "directory.png").mkdir()
    assert command.main(["sample", "--workdir", str(run), "--out", str(tmp_path / out)]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory.png", "file"]


def test_nothing_is_made_where_there_is_no_run_to_sample(tmp_path):
    words = ["sample", "--workdir", str(tmp_path / "none"), "--out", str(tmp_path / "x" / "s.png")]
    assert command.main(words) == 1
    assert list(tmp_path.iterdir()) == []


def test_more_images_than_the_memory_holds_are_refused_by_the_name_of_the_knob(run, tmp_path, capsys):
    out = tmp_path / "s.png"
    words = ["sample", "--workdir", str(run), "--num", "100000000", "--steps", "1", "--out", str(out)]
    assert command.main(words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "too little memory" in error
    assert "--num 100000000" in error
    assert not out.exists()
