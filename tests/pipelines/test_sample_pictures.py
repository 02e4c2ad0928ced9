import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import command


@pytest.fixture(scope="module")
def run(debug_run, tmp_path_factory) -> Path:
    return Path(shutil.copytree(debug_run, tmp_path_factory.mktemp("pictures") / "run"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("masks")
    right_half = np.zeros((8, 8), np.uint8)
    right_half[:, 4:] = 255
    Image.fromarray(right_half).save(directory / "right.png")
    Image.fromarray(np.full((9, 8), 255, np.uint8)).save(directory / "other-size.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(directory / "nothing.png")
    (directory / "text.png").write_text("no picture")
    whole = (directory / "right.png").read_bytes()
    (directory / "cut.png").write_bytes(whole[: len(whole) // 2])
    return directory


def picture(path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("L"))


def sample(run, out, *words) -> int:
    return command.main(
        ["sample", "--workdir", str(run), "--out", str(out), "--steps", "4", *map(str, words), "--json"]
    )


@pytest.mark.slow  # a program each
@pytest.mark.parametrize(
    "words",
    [
        ["--film", "--num", "2"],
        ["--film", "both", "--num", "2", "--frames", "3", "--solver", "dpm"],
        ["--interpolate", "--num", "4", "--frames", "3"],
        ["--interpolate", "--images", "5", "9", "--frames", "3", "--data", "DATA"],
        ["--inpaint", "MASK", "--num", "2", "--frames", "2", "--repeats", "2", "--data", "DATA"],
        ["--progressive", "--num", "3", "--split", "train", "--data", "DATA"],
    ],
    ids=" ".join,
)
def test_each_picture_is_written_and_told(run, masks, digits_dir, words, tmp_path, capsys):
    words = [{"DATA": digits_dir, "MASK": masks / "right.png"}.get(word, word) for word in words]
    out = tmp_path / "x" / "a.png"
    assert sample(run, out, *words) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["picture"] == str(out)
    assert picture(out).shape[1] > 300
    if "--progressive" in words:
        assert result["measured"]["bpd of these images (one draw each)"] > 1.0
    if "--images" in words:
        assert "share of the ends' values that are not the given ones" in result["measured"]


@pytest.mark.slow  # a program for each film
def test_a_film_moves_and_ends_with_the_samples(run, tmp_path):
    out = tmp_path / "a.gif"
    assert sample(run, out, "--film", "--num", "4") == 0
    assert sample(run, tmp_path / "a.png", "--num", "4") == 0
    grid = picture(tmp_path / "a.png")
    with Image.open(out) as film:
        assert film.n_frames == 5
        film.seek(4)
        last = np.asarray(film.convert("L"))
    side = 2 * 9 + 1
    small, large = last[:: len(last) // side, :: len(last) // side], grid[:: len(grid) // side, :: len(grid) // side]
    # Compiled otherwise, a pixel between two levels may fall to the other side; a GIF has 256 colours.
    assert np.mean(np.abs(small.astype(int) - large) > 4) < 0.02


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--inpaint", "other-size.png", "--data", "DATA"], 2, "has 8x9 pixels, the images have 8x8"),
        (["--inpaint", "nothing.png", "--data", "DATA"], 2, "no white pixel"),
        (["--inpaint", "text.png", "--data", "DATA"], 2, "cannot be read as a picture: it is of no kind"),
        (["--inpaint", "cut.png", "--data", "DATA"], 2, "cannot be read as a picture"),
        (["--inpaint", "right.png", "--data", "DATA", "--solver", "dpm_sde"], 2, "leave out --solver dpm_sde"),
        (["--interpolate", "--solver", "dpm_sde"], 2, "steps of dpm_sde draw noise anew"),
        (["--inpaint", "absent.png", "--data", "DATA"], 2, "does not exist"),
        (["--inpaint", "right.png"], 2, "name their data directory with --data"),
        (["--inpaint", "right.png", "--data", "DATA", "--solver", "dpm"], 2, "leave out --solver dpm"),
        (["--inpaint", "right.png", "--data", "DATA", "--repeats", "0"], 2, "repeats must lie in 1"),
        (["--progressive"], 2, "name their data directory with --data"),
        (["--progressive", "--data", "DATA", "--images", "359"], 2, "--images must lie in 0..358"),
        (["--progressive", "--data", "DATA", "--images", "1", "--num", "2"], 2, "leave out --num"),
        (["--progressive", "--data", "DATA", "--solver", "dpm"], 2, "leave out --solver"),
        (["--progressive", "--data", "DATA", "--split", "valid"], 1, "valid"),
        (["--interpolate", "--solver", "ancestral"], 2, "--solver dpm or ddim"),
        (["--interpolate", "--num", "3"], 2, "even number of images, got 3"),
        (["--interpolate", "--frames", "1"], 2, "at least two --frames"),
        (["--interpolate", "--images", "1", "2"], 2, "name it with --data"),
        (["--film", "--frames", "0"], 2, "frames must lie in 1"),
        (["--film", "--num", "0"], 2, "num must lie in 1"),
        (["--film", "--data", "DATA"], 2, "leave it out"),
        (["--frames", "3"], 2, "leave it out"),
        (["--film", "--out", "a.jpg"], 2, "ends in .png or .gif"),
        (["--interpolate", "--out", "a.gif"], 2, "ends in .png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused_in_one_line(
    run, masks, digits_dir, words, code, message, tmp_path, capsys
):
    words = [{"DATA": digits_dir}.get(word, str(masks / word) if word.endswith(".png") else word) for word in words]
    out = tmp_path / "a.png"
    assert sample(run, out, *words) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []
