import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

import configs
from pipelines import command
from pipelines.commands import bundle

NAMES = (
    *("prepare", "train", "eval", "sample", "export", "verify", "report", "promote", "rollback", "import", "info"),
    "plan",
)


def test_help_keeps_to_its_budget_of_imports():
    command_line = [sys.executable, "-X", "importtime", "-m", "pipelines.command", "--help"]
    done = subprocess.run(command_line, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pipelines.commands.train" in imported
    heavy = {"apache_beam", "jax", "numpy", "orbax", "prefect", "pydantic", "sklearn", "tensorflow"}
    assert not heavy & {name.partition(".")[0] for name in imported}
    # A bare interpreter imports 40, and pydantic alone a hundred.
    assert len(imported) <= 250


@pytest.mark.parametrize("name", list(NAMES))
def test_every_subcommand_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"^examples?:\n  vdm {name} ", text, re.MULTILINE)
    # Words that may be left out stand in brackets.
    usage = text.partition("\n\n")[0]
    assert "key=value" not in usage or "[key=value ...]" in usage


def test_the_examples_of_the_help_can_be_parsed():
    parser = command.build_parser()
    commands = next(action for action in parser._actions if action.dest == "command").choices
    for name in NAMES:
        examples = [shlex.split(line) for line in commands[name].epilog.replace("\\\n", " ").splitlines()[1:]]
        assert [command._parse(words[1:]).command for words in examples] == [name] * len(examples)


def test_no_arguments_print_the_help_with_every_command(capsys):
    assert command.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    for name in NAMES:
        assert f"\n    {name} " in captured.err


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"vdm {importlib.metadata.version('vdm-pipeline')}\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "cifar11", "--data", "d", "--workdir", "w"], 2, "did you mean 'cifar10'"),
        (["train", "debug", "model.n_emb=64", "--data", "d", "--workdir", "w"], 2, "did you mean 'model.n_embd'"),
        (["train", "debug"], 2, "--data and --workdir"),
        (["train", "debug", "--data", "d", "--workdir", "w", "--profile", "0"], 2, "--profile must be at least 1"),
        (["train", "debug", "--data", "nowhere", "--workdir", "w"], 1, "manifest.json"),
        (["eval", "--workdir", "nowhere", "--data", "d"], 1, "holds no run"),
        (["eval", "--workdir", "w", "--data", "d", "--step", "last"], 2, "--step"),
        (["prepare", "cifar10", "--source", "nowhere", "--out", "o"], 1, "nowhere"),
        (["prepare", "cifar1", "--out", "o"], 2, "did you mean 'cifar10'"),
        (["prepare", "cifar10", "--out", "o"], 2, "cifar10 needs --source"),
        (["prepare", "digits", "--limit", "0", "--out", "o"], 2, "--limit"),
        (["prepare", "digits", "--shards", "0", "--out", "o"], 2, "--shards"),
        (["prepare", "digits", "--max-bad", "-1", "--out", "o"], 2, "--max-bad"),
        (["prepare", "images", "--source", ".", "--size", "0", "--out", "o"], 2, "--size"),
        (["plan", "debug", "--accelerator", "v3-7"], 2, "unknown accelerator 'v3-7'"),
        (["plan", "debug", "--accelerator", "v3-8", "--markdown"], 2, "several slices"),
        (["info", "debug", "data.image_shape=[1000000000,8,1]"], 2, "image_shape is height, width (1..4096)"),
        (["info", "debug", "data.image_shape=[8,8,-1]"], 2, "channels (1..64)"),
        (["info", "debug", "data.name=../x"], 2, "name is a word"),
        (["info", "debug", "data.name="], 2, "name is a word"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(words, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["import", "ckpt", "s3://x/y"], ["import", "http://x/y", "o"], ["report", "--workdir", "s3://x"],
        ["prepare", "digits", "--out", "s3://b/o"], ["eval", "--compare", "w", "s3://x", "--data", "d"],
    ],
)  # fmt: skip
def test_a_place_that_is_neither_local_nor_in_a_bucket_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(words)
    assert stop.value.code == 2
    assert "cannot be used, only local paths and gs://" in capsys.readouterr().err.splitlines()[-1]


def test_a_word_that_is_not_known_shows_the_usage_of_its_subcommand(capsys):
    for words, usage in (
        (["train", "debug", "--steps", "3"], "usage: vdm train CONFIG"),
        (["tpu", "list", "--steps", "3"], "usage: vdm tpu list"),
    ):
        with pytest.raises(SystemExit) as stop:
            command.main(words)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(usage)
        assert "unrecognized arguments: --steps 3" in error


def test_print_config_is_json_and_needs_no_data(capsys):
    assert command.main(["train", "cifar10", "model.n_layer=2", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["n_layer"] == 2


def test_print_config_with_json_is_one_line_of_the_same_config(capsys):
    assert command.main(["train", "cifar10", "model.n_layer=2", "--print-config", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert configs.from_json(line, "stdout") == configs.load("cifar10", {"model.n_layer": 2})


@pytest.mark.parametrize(("where", "message"), [("> /dev/full", "No space left on device\n"), ("", "")])
def test_output_that_nobody_takes_is_no_traceback(where, message):
    # A reader that is gone before the first line.
    read, write = os.pipe()
    os.close(read)
    line = f"{sys.executable} -m pipelines.command train cifar10 --print-config {where}"
    done = subprocess.run(["bash", "-c", line], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr.endswith(message)
    assert done.stderr.count("\n") == message.count("\n")


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(closed):
    line = f"{sys.executable} -m pipelines.command train debug --print-config {closed}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_job_that_is_terminated_cleans_up(monkeypatch, tmp_path, capsys):
    half_written = tmp_path / "half"

    def job(*_, **__):
        half_written.touch()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            half_written.unlink()

    monkeypatch.setattr(bundle, "job", lambda *_: job)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert command.main(["verify", str(tmp_path)]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "vdm verify: interrupted\n"
    assert not half_written.exists()
