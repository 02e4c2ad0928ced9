"""`vdm compress` and back: the same pixels, whatever they came as; and what is refused."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipelines.compress
import pipelines.decompress
import pipelines.referee
from pipelines import command
from vdm_lib.compression.container import parse
from vdm_lib.data import load_split

STEPS = 3


@pytest.fixture(scope="module")
def run(debug_run, tmp_path_factory) -> Path:
    return Path(shutil.copytree(debug_run, tmp_path_factory.mktemp("compress") / "run"))


@pytest.fixture(scope="module")
def images(digits_dir) -> np.ndarray:
    return load_split(digits_dir, "test").images[:20]


@pytest.fixture(scope="module")
def packed(run, images, tmp_path_factory) -> Path:
    """Twenty images in three chunks."""
    place = tmp_path_factory.mktemp("packed")
    np.save(place / "x.npy", images)
    out = place / "x.vdmz"
    pipelines.compress.run([str(place / "x.npy")], str(run), str(out), steps=STEPS, chunk_size=8, batch_size=4)
    return out


def vdm(*words: object) -> int:
    return command.main([str(word) for word in words])


@pytest.mark.slow
def test_a_data_directory_comes_back_byte_for_byte(run, digits_dir, tmp_path, capsys):
    out = tmp_path / "digits.vdmz"
    assert vdm("compress", "--model", run, "--steps", 1, digits_dir, "--out", out, "--no-verify", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_images"] == 1797 and not result["verified"]
    assert result["net_bpd"] < result["gross_bpd"] < result["file_bpd"]
    assert vdm("decompress", out, "--out", tmp_path / "back") == 0
    names = ["manifest.json", *(path.name for path in Path(digits_dir).glob("*.tfrecord"))]
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(names)
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (Path(digits_dir) / name).read_bytes()


def test_pngs_folders_and_arrays_come_back(run, images, tmp_path, capsys):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    extremes = np.stack([np.zeros((8, 8), np.uint8), np.full((8, 8), 16, np.uint8)])
    Image.fromarray(extremes[0]).save(tmp_path / "in" / "black.png")
    Image.fromarray(extremes[1]).save(tmp_path / "in" / "deep" / "white.png")
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "one.png")
    (tmp_path / "in" / "deep" / "notes.txt").write_text("kept by nobody")
    np.save(tmp_path / "flat.npy", images[1:4, ..., 0].astype(np.int64))
    given = [tmp_path / "in", tmp_path / "one.png", tmp_path / "flat.npy"]
    assert vdm("compress", "--model", run, "--steps", STEPS, *given, "--out", tmp_path / "x.vdmz") == 0
    said = capsys.readouterr()
    assert "notes.txt" in said.err and "1 files that are no PNGs" in said.out
    # Verifying is counted for itself.
    assert "compress: image 6 of 6" in said.err and "compress: verified image 6 of 6" in said.err
    assert vdm("decompress", tmp_path / "x.vdmz", "--out", tmp_path / "out") == 0
    out = tmp_path / "out"
    np.testing.assert_array_equal(np.asarray(Image.open(out / "black.png")), extremes[0])
    np.testing.assert_array_equal(np.asarray(Image.open(out / "deep" / "white.png")), extremes[1])
    np.testing.assert_array_equal(np.asarray(Image.open(out / "one.png")), images[0, ..., 0])
    back = np.load(out / "flat.npy")
    assert back.dtype == np.int64 and back.shape == (3, 8, 8)
    np.testing.assert_array_equal(back, images[1:4, ..., 0])


def test_one_damaged_chunk_does_not_lose_the_others(packed, images, tmp_path, capsys):
    data = bytearray(packed.read_bytes())
    data[-1] ^= 1
    damaged = tmp_path / "x.vdmz"
    damaged.write_bytes(data)
    assert vdm("decompress", damaged, "--out", tmp_path / "out") == 1
    assert "chunk 2 is damaged" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert vdm("decompress", damaged, "--out", tmp_path / "out", "--salvage") == 0
    assert "images 16 to 19" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "x.npy"), images[:16])
    assert json.loads((tmp_path / "out" / "LOST.json").read_text()) == {"x.npy": [16, 17, 18, 19]}


def test_nothing_is_salvaged_of_a_file_without_a_whole_chunk(run, images, tmp_path, capsys):
    np.save(tmp_path / "x.npy", images[:2])
    out = tmp_path / "x.vdmz"
    pipelines.compress.run([str(tmp_path / "x.npy")], str(run), str(out), steps=STEPS, batch_size=4, verify=False)
    out.write_bytes(out.read_bytes()[:-1])
    assert vdm("decompress", out, "--out", tmp_path / "out", "--salvage") == 1
    assert "nothing to salvage" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_file_that_exists_is_not_written_over(run, packed, images, tmp_path, capsys, monkeypatch):
    before = packed.read_bytes()
    np.save(tmp_path / "x.npy", images[:2])
    assert vdm("compress", "--model", run, "--steps", 2, tmp_path / "x.npy", "--out", packed) == 2
    assert "exists: choose another name" in capsys.readouterr().err
    late = tmp_path / "late.vdmz"
    # Another job writes it while this one works.
    monkeypatch.setattr(pipelines.compress, "serialise", lambda *_: late.write_bytes(b"other") and b"mine")
    assert vdm("compress", "--model", run, "--steps", 2, tmp_path / "x.npy", "--out", late, "--no-verify") == 2
    assert (packed.read_bytes(), late.read_bytes()) == (before, b"other")


def test_a_place_that_cannot_be_written_is_found_before_anything_is_decoded(packed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipelines.decompress.load_subject", None)
    (tmp_path / "file").write_text("no directory")
    assert vdm("decompress", packed, "--out", tmp_path / "file" / "out") == 1
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"steps": 3}}, "its header's settings.batch_size"),
        ({"settings": {"steps": 10**9, "batch_size": 2, "first_batch": 1, "images_per_call": [1]}}, "settings.steps"),
        ({"image_shape": [8, 8]}, "its header's image_shape"),
        ({"image_shape": [8, 8, 2]}, "not of images of (8, 8, 2)"),
        ({"model": "runs/a"}, "its header's model"),
        ({"num_images": 10**12}, "images, 20 in chunks"),
        ({"chunks": [[10**15, 100]], "num_images": 10**15}, "more images than its bytes can tell"),
        ({"computing": None}, "its header's computing"),
        ({"probe": 3}, "its header's probe"),
        ({"model": {"path": "s3://x", "step": 6, "digest": "", "name": "debug"}}, "names a model at 's3://x'"),
    ],
)
def test_a_header_that_was_made_up_is_one_line(change, message, packed, tmp_path, capsys, monkeypatch):
    held = parse(packed.read_bytes(), "packed")
    monkeypatch.setattr(
        pipelines.decompress, "parse", lambda *_: dataclasses.replace(held, header=held.header | change)
    )
    assert vdm("decompress", packed, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_another_model_is_refused(packed, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipelines.compression.codec.params_digest", lambda params: "0" * 64)
    assert vdm("decompress", packed, "--out", tmp_path / "out") == 1
    assert "give --model and --step of that one" in capsys.readouterr().err


def test_a_machine_that_computes_other_bits_is_refused(packed, tmp_path, capsys, monkeypatch):
    from vdm_lib.compression.network import Network

    call = Network._call
    monkeypatch.setattr(Network, "_call", lambda *args: np.nextafter(call(*args), np.float32(9)))
    assert vdm("decompress", packed, "--out", tmp_path / "out") == 1
    assert "the network gives other bits" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_file_made_on_two_devices_decodes_on_one(run, images, tmp_path):
    np.save(tmp_path / "x.npy", images)
    words = ["compress", "--model", run, "--steps", STEPS, tmp_path / "x.npy", "--out", tmp_path / "x.vdmz"]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-m", "pipelines.command", *map(str, words)], env=environment, check=True)
    code = vdm("decompress", tmp_path / "x.vdmz", "--out", tmp_path / "out")
    # It may be refused where other devices round otherwise, but never be wrong.
    assert code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "x.npy"), images)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--steps", "0", "x.npy"], 2, "--steps must lie in 1..100000"),
        (["--steps", "3", "x.npy", "--chunk", "0"], 2, "--chunk must be at least 1"),
        (["--steps", "3", "x.npy", "--batch", "4", "--first-batch", "5"], 2, "--first-batch must lie in 1..4"),
        (["--steps", "3", "absent.npy"], 1, "absent.npy is missing"),
        (["--steps", "3", "bright.npy"], 1, "levels 0 to 255, the model is for 0 to 16"),
        (["--steps", "3", "wide.npy"], 1, "the model is for images of (8, 8, 1)"),
        (["--steps", "3", "text.png"], 1, "no PNG that can be read"),
        (["--steps", "3", "photo.jpg"], 1, "photo.jpg is no PNG and no NPY array"),
        (["--steps", "3", "empty"], 1, "holds no PNG and no manifest.json"),
        (["--steps", "3", "x.npy", "x.npy"], 2, "two files are named x.npy"),
    ],
)
def test_what_cannot_be_is_one_line(run, images, words, code, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", images)
    np.save("bright.npy", np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1))
    np.save("wide.npy", np.zeros((2, 8, 9, 1), np.uint8))
    Path("text.png").write_text("no picture")
    Path("empty").mkdir()
    Image.fromarray(images[0, ..., 0]).save("photo.jpg")
    assert vdm("compress", "--model", run, *words, "--out", "y.vdmz") == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not Path("y.vdmz").exists()


def test_without_constriction_the_error_says_what_to_install(run, images, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    np.save(tmp_path / "x.npy", images)
    words = ("compress", "--model", run, "--steps", 2, tmp_path / "x.npy", "--out", tmp_path / "y.vdmz")
    assert vdm(*words) == 1
    assert "pip install '.[codec]'" in capsys.readouterr().err


def test_a_name_that_leads_out_of_the_directory_is_refused(tmp_path):
    from etils import epath

    from pipelines.compression.images_out import write_all
    from vdm_lib.errors import RecordError

    origin = {"kind": "files", "files": [{"kind": "png", "names": ["../x.png"]}]}
    with pytest.raises(RecordError, match="outside"):
        write_all(epath.Path(tmp_path), origin, np.zeros((1, 2, 2, 1), np.uint8))


def test_a_terminated_job_leaves_nothing(run, images, tmp_path):
    np.save(tmp_path / "x.npy", np.tile(images, (10, 1, 1, 1)))
    words = ["compress", "--model", run, "--steps", "100000", tmp_path / "x.npy", "--out", tmp_path / "x.vdmz"]
    command_line = [sys.executable, "-m", "pipelines.command", *map(str, words)]
    with subprocess.Popen(command_line, stderr=subprocess.PIPE, text=True) as job:
        assert job.stderr is not None
        for line in job.stderr:
            if "compiling" in line:
                break
        job.send_signal(signal.SIGTERM)
        rest = job.stderr.read()
        assert job.wait(timeout=120) == 1, rest
    assert "interrupted" in rest and sorted(path.name for path in tmp_path.iterdir()) == ["x.npy"]


@pytest.mark.slow
def test_the_referee_reports_rates_beside_the_bound(run, digits_dir, capsys):
    words = ["eval", "model.timesteps=3", "eval.passes=2", "--codec", 12, "--workdir", run, "--data", digits_dir]
    assert vdm(*words, "--codec-repeats", 2, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 3 and result["num_images"] == 12 and result["gross_bpd"] > result["net_bpd"]
    assert {name.split(",")[0] for name in result["other_bpd"]} == {"PNG", "WebP lossless", "JPEG XL lossless"}
    # The parts are of one account.
    assert result["difference_bpd"] == pytest.approx(result["without_chance_bpd"] - result["bound_bpd"], abs=1e-9)
    assert result["difference_stderr"] > result["bound_bpd_stderr"] > 0.0 < result["coder_loss_bpd_stderr"]
    assert (run / "codec" / "6-timesteps=3-images=12-repeats=2.json").exists()
    assert vdm(*words, "--codec-repeats", 0) == 2
    assert "--codec-repeats must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["eval.schedule=cosine", "eval.timesteps=[10]", "eval.estimator=ode"])
def test_the_referee_refuses_what_the_code_is_not_compared_with(run, digits_dir, word, capsys):
    assert vdm("eval", "--codec", 4, word, "--workdir", run, "--data", digits_dir) == 2
    assert "--codec" in capsys.readouterr().err


def test_the_referee_refuses_too_many_steps_before_it_measures(run, digits_dir, capsys, monkeypatch):
    monkeypatch.setattr(pipelines.referee, "_bound", lambda *_: pytest.fail("it measured"))
    assert vdm("eval", "--codec", 4, "model.timesteps=1000000", "--workdir", run, "--data", digits_dir) == 2
    assert "--steps must lie in 1..100000" in capsys.readouterr().err
