import gzip
import json
from pathlib import Path

import pytest

from pipelines import command

TREES = json.loads(gzip.decompress((Path(__file__).parents[1] / "golden" / "param_trees.json.gz").read_bytes()))


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("cifar10", 30_578_181),
        pytest.param("cifar10_aug", 122_140_677, marks=pytest.mark.slow),
        pytest.param("cifar10_aug_paper", 139_279_877, marks=pytest.mark.slow),
        pytest.param("imagenet32", 122_137_605, marks=pytest.mark.slow),
        pytest.param("imagenet64", 237_603_845, marks=pytest.mark.slow),
    ],
)
def test_the_parameters_are_the_original_s(name, total, capsys):
    assert command.main(["info", name, "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["total"] == total
    assert info["checkpoint_bytes"] == 16 * total
    shapes = {path.removeprefix("params/"): leaf["shape"] for path, leaf in info["parameters"].items()}
    assert shapes == TREES[name]
    assert {leaf["dtype"] for leaf in info["parameters"].values()} == {"float32"}


def test_a_value_changes_what_is_printed(capsys):
    assert command.main(["info", "cifar10", "model.n_embd=32", "model.n_layer=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "parameters  223,557 in 91 arrays"
    assert lines[2].startswith("checkpoint  3.6 MB")
    assert lines[-1].split() == ["total", "91", "arrays", "223,557", "parameters"]
    assert len(lines) < 20


def test_every_array_is_named_on_request(capsys):
    assert command.main(["info", "cifar10", "model.n_embd=32", "model.n_layer=2", "--arrays"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 + 1 + 1 + 91 + 1
    assert sum("score_model/conv_in/kernel" in line for line in lines) == 1
    assert lines[-1].split() == ["total", "223,557"]
