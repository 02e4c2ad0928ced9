import errno
import json
import os
import threading
from pathlib import Path

import pytest

import pipelines.promote
import pipelines.registry
from pipelines import command
from pipelines.bundle import check
from pipelines.bundle.fresh import Checked
from pipelines.registry import Model
from vdm_lib.errors import ConfigError, VdmError

PEOPLE = {"who": "ada", "why": "a test"}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make bundles of the files that the registry reads; test_export.py sees what is checked of real ones."""
    monkeypatch.setattr(pipelines.promote, "run_checks", lambda _: Checked())

    def make(step, bpd, stderr=0.01, **fields):
        bundle = tmp_path / f"bundle-{step}-{bpd}"
        (bundle / "saved_model").mkdir(parents=True)
        metrics = {"bpd": bpd, "bpd_stderr": stderr, "data_fingerprint": "f", "timesteps": 0} | fields
        (bundle / "metrics.json").write_text(json.dumps(metrics))
        (bundle / "provenance.json").write_text(json.dumps({"step": step, "experiment": "digits"}))
        (bundle / "saved_model" / "saved_model.pb").write_text("graph")
        lines = [f"{check.sha256(path)}  {path.name}\n" for path in sorted(bundle.glob("*.json"))]
        (bundle / check.SUMS).write_text("".join(lines))
        return str(bundle)

    return make


@pytest.fixture
def registry(tmp_path):
    return str(tmp_path / "registry")


def promote(bundle, registry, **options):
    return pipelines.promote.run(bundle, registry, **(PEOPLE | options))


def test_promote_rollback_and_their_history(make, registry):
    first = promote(make(1, 3.0), registry)
    second = promote(make(2, 2.0), registry)
    third = promote(make(3, 1.0), registry)
    assert (first.before, second.before, third.before) == (None, first.version, second.version)
    model = Model(registry, "digits")
    assert model.versions() == [first.version, second.version, third.version]
    assert model.pointer("promoted") == model.pointer("latest") == third.version
    assert (model.directory(third.version) / "saved_model" / "saved_model.pb").read_text() == "graph"
    for expected in (second, first):
        back = pipelines.promote.rollback("digits", registry, **PEOPLE)
        assert back.version == expected.version == model.pointer("promoted")
    with pytest.raises(VdmError, match=f"nothing was promoted before {first.version}"):
        pipelines.promote.rollback("digits", registry, **PEOPLE)
    # Forwards again, by the version's name.
    again = promote(third.version, registry, name="digits")
    assert (again.version, again.before) == (third.version, first.version)
    assert pipelines.promote.rollback("digits", registry, **PEOPLE).version == first.version
    assert model.pointer("latest") == third.version
    actions = [change.action for change in model.history()]
    assert actions == ["add", "promote"] * 3 + ["rollback"] * 2 + ["promote", "rollback"]
    assert {(change.who, change.why) for change in model.history()} == {("ada", "a test")}
    assert all(change.time.endswith("+00:00") for change in model.history())


def test_what_is_worse_by_more_than_two_errors_is_kept_but_not_promoted(make, registry):
    good = promote(make(1, 2.0, 0.03), registry)
    # The error of the difference is 0.05.
    with pytest.raises(VdmError, match=r"not promoted: it is worse by 0\.1010 ± 0\.0500 bits/dim"):
        promote(make(2, 2.101, 0.04), registry)
    model = Model(registry, "digits")
    assert model.pointer("promoted") == good.version
    assert len(model.versions()) == 2
    assert model.history()[-1].action == "refuse"
    within = promote(make(3, 2.099, 0.04), registry)
    assert model.pointer("promoted") == within.version
    forced = promote(make(4, 9.0), registry, force=True)
    assert model.pointer("promoted") == forced.version


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bpd": None}, "not measured"),
        ({"bpd": float("nan")}, "worse by nan"),
        ({"bpd": 1.0, "data_fingerprint": "other"}, "on other images"),
        ({"bpd": 1.0, "timesteps": 10}, "another number of steps"),
    ],
)
def test_what_cannot_be_compared_is_not_promoted(make, registry, fields, reason):
    promote(make(1, 2.0), registry)
    with pytest.raises(VdmError, match=reason):
        promote(make(2, **fields), registry)


def test_what_does_not_verify_is_not_added(make, registry, monkeypatch):
    def refuse(_):
        raise VdmError("not verified")

    monkeypatch.setattr(pipelines.promote, "run_checks", refuse)
    with pytest.raises(VdmError, match="not verified"):
        promote(make(1, 2.0), registry)
    assert not Path(registry).exists()


def test_the_same_bundle_is_one_version(make, registry):
    bundle = make(1, 2.0)
    first, second = promote(bundle, registry), promote(bundle, registry)
    assert first.version == second.version == second.before
    assert len(Model(registry, "digits").history()) == 2


def test_a_full_disk_leaves_the_pointer_and_the_versions(make, registry, monkeypatch):
    first = promote(make(1, 3.0), registry)
    whole = pipelines.registry.write_atomically
    for full_at in ("history.jsonl", "latest", "promoted"):

        def full(path, data, full_at=full_at):
            if path.name == full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            whole(path, data)

        monkeypatch.setattr(pipelines.registry, "write_atomically", full)
        with pytest.raises(VdmError, match="No space left"):
            promote(make(2, 2.0) if full_at == "history.jsonl" else make(len(full_at), 1.0), registry)
        assert Model(registry, "digits").pointer("promoted") == first.version


def test_a_reader_sees_one_version_or_the_other(make, registry):
    versions = [promote(make(step, 3.0 - step), registry).version for step in (1, 2)]
    model = Model(registry, "digits")
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(model.pointer("promoted"))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for version in versions:
            model.promote(version, **PEOPLE)
    done.set()
    reader.join()
    assert seen <= set(versions)


def test_a_history_cut_short_is_mended_and_a_damaged_one_named(make, registry):
    promote(make(1, 3.0), registry)
    path = Model(registry, "digits")._root / "history.jsonl"
    path.write_text(path.read_text() + '{"time": "20')
    assert len(Model(registry, "digits").history()) == 2
    promote(make(2, 2.0), registry)
    assert [change.action for change in Model(registry, "digits").history()] == ["add", "promote"] * 2
    path.write_text("nonsense\n")
    with pytest.raises(VdmError, match="line 1, is no change"):
        Model(registry, "digits").history()


def test_bad_words(make, registry, tmp_path, capsys):
    with pytest.raises(ConfigError, match="plain word"):
        promote(make(1, 2.0), registry, name="../up")
    with pytest.raises(VdmError, match="is no registry"):
        pipelines.promote.rollback("digits", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    assert command.main(["promote", make(2, 2.0), "--registry", registry, "--why", "ok"]) == 0
    assert "before  nothing was promoted" in capsys.readouterr().out
    assert command.main(["rollback", "other", "--registry", registry]) == 1
    assert "nothing promoted" in capsys.readouterr().err
    with pytest.raises(VdmError, match="has no version '9'; there are: 00000002-"):
        Model(registry, "digits").directory("9")
