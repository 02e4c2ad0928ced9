import json

import pytest

import pipelines.prepare
import pipelines.verify
from pipelines import command
from pipelines.bundle.fresh import Checked
from vdm_lib.errors import CheckpointError, DataError
from vdm_lib.files.records import read_manifest


@pytest.fixture
def bundle(digits_dir, tmp_path, monkeypatch):
    """What `verify` compares of a bundle once its files are checked and before bpd is measured."""
    monkeypatch.setattr(pipelines.verify, "run_checks", lambda _: Checked())
    monkeypatch.setattr(pipelines.verify, "_measure", lambda *_: (None, None))
    splits = {name: split.fingerprint for name, split in read_manifest(digits_dir).splits.items()}
    (tmp_path / "provenance.json").write_text(json.dumps({"data_fingerprints": {"train": splits["train"]}}))
    (tmp_path / "metrics.json").write_text(json.dumps({"split": "test", "data_fingerprint": splits["test"]}))
    return tmp_path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same test images, but fewer train images."""
    out = str(tmp_path_factory.mktemp("other") / "digits")
    pipelines.prepare.run("digits", out, limit=359)
    return out


def test_without_data_nothing_is_compared(bundle):
    assert pipelines.verify.run(str(bundle)).same_data is None


def test_the_data_it_was_made_of(bundle, digits_dir):
    result = pipelines.verify.run(str(bundle), digits_dir)
    assert result.same_data is True
    assert "those of the bundle" in str(result)


def test_other_data_is_refused_unless_allowed(bundle, other, capsys):
    words = ["verify", str(bundle), "--data", other]
    assert command.main(words) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert "its train fingerprint is" in captured.err
    assert "--allow-other-data" in captured.err
    assert command.main([*words, "--allow-other-data", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same_data"] is False


def test_data_that_only_the_measurement_differs_from(bundle, digits_dir):
    (bundle / "metrics.json").write_text(json.dumps({"split": "test", "data_fingerprint": "0" * 64}))
    with pytest.raises(CheckpointError, match=r"its test fingerprint is 000000000000\.\.\."):
        pipelines.verify.run(str(bundle), digits_dir)


def test_a_bundle_of_unknown_data(bundle, digits_dir):
    (bundle / "provenance.json").write_text('{"data_fingerprints": {}}')
    (bundle / "metrics.json").write_text('{"bpd": null}')
    with pytest.raises(DataError, match="does not say on which data it was trained"):
        pipelines.verify.run(str(bundle), digits_dir)
