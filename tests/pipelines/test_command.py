import json
import subprocess
import sys

import pytest

from pipelines import command


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom pipelines import command\ncommand.build_parser().format_help()\n"
        "print([name for name in ('jax', 'tensorflow', 'apache_beam', 'prefect', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["prepare", "train", "eval", "sample", "export", "verify"])
def test_every_subcommand_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([name, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  vdm {name} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "cifar11", "--data", "d", "--workdir", "w"], 2, "did you mean 'cifar10'"),
        (["train", "debug", "model.n_emb=64", "--data", "d", "--workdir", "w"], 2, "did you mean 'model.n_embd'"),
        (["train", "debug"], 2, "--data and --workdir"),
        (["train", "debug", "--data", "nowhere", "--workdir", "w"], 1, "manifest.json"),
        (["eval", "--workdir", "nowhere", "--data", "d"], 1, "holds no run"),
        (["eval", "--workdir", "w", "--data", "d", "--step", "last"], 2, "--step"),
        (["prepare", "cifar10", "--source", "nowhere", "--out", "o"], 1, "nowhere"),
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


def test_print_config_is_json_and_needs_no_data(capsys):
    assert command.main(["train", "cifar10", "model.n_layer=2", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["n_layer"] == 2
