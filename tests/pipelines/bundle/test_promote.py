import errno
import fcntl
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from etils import epath

import pipelines.promote
import pipelines.registry
from pipelines import command
from pipelines.bundle import check
from pipelines.bundle.fresh import Checked
from pipelines.registry import Model
from vdm_lib.errors import ConfigError, DataError, VdmError

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
        files = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
        lines = [f"{check.sha256(path)}  {path.relative_to(bundle).as_posix()}\n" for path in files]
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
        ({"bpd": 1.0, "labels": "given"}, "given other labels"),
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


@pytest.fixture
def two(make, registry):
    """Return a model with two versions, the second one promoted; the directories of both, and the two bundles."""
    bundles = [make(1, 3.0), make(2, 2.0)]
    model = Model(registry, "digits")
    return model, [Path(model.directory(promote(bundle, registry).version)) for bundle in bundles], bundles


GRAPH = "saved_model/saved_model.pb"


@pytest.mark.parametrize("name", [GRAPH, "metrics.json", check.SUMS])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"{\xff"), Path.unlink], ids=["other", "missing"])
def test_users_are_not_sent_back_to_a_damaged_version(two, registry, name, damage):
    model, (first, second), _ = two
    damage(first / name)
    before = (first.parent / "history.jsonl").read_bytes()
    with pytest.raises(VdmError, match="has no version" if damage is Path.unlink and name == check.SUMS else name):
        pipelines.promote.rollback("digits", registry, **PEOPLE)
    assert model.pointer("promoted") == second.name
    assert (first.parent / "history.jsonl").read_bytes() == before


def test_a_damaged_version_is_not_taken_for_its_bundle(two, registry):
    model, (first, second), (bundle, _) = two
    (first / GRAPH).write_text("grapf")
    with pytest.raises(VdmError, match=f"{first / GRAPH} is damaged.*: remove this bundle and put it there again"):
        promote(bundle, registry, force=True)
    assert model.pointer("promoted") == second.name
    # What the message says helps.
    shutil.rmtree(first)
    assert promote(bundle, registry, force=True).version == first.name == model.pointer("promoted")


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 100_000, '{"bpd": "x"}', '{"bpd": true}', '{"bpd": 1' + "0" * 400 + "}", "\xff"]
)
def test_damaged_metrics_are_one_line_that_names_the_file(two, registry, make, text):
    _, (first, second), _ = two
    (second / "metrics.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(VdmError, match=f"{second}/metrics.json is damaged"):
        promote(make(3, 1.0), registry)
    # Checksums that agree do not make them usable.
    (first / "metrics.json").write_bytes(text.encode("latin-1"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(VdmError, match=f"{first}/metrics.json is damaged"):
        patch.setattr(Model, "verify", lambda *_: None)
        pipelines.promote.rollback("digits", registry, **PEOPLE)
    assert Model(registry, "digits").pointer("promoted") == second.name


@pytest.mark.parametrize("data", [b"", b"\xff\n", b"two words\n", b"../up\n"])
def test_a_damaged_pointer_is_named(two, registry, make, data):
    _, (first, _), _ = two
    (first.parent / "promoted").write_bytes(data)
    for act in (
        lambda: pipelines.promote.rollback("digits", registry, **PEOPLE),
        lambda: promote(make(3, 1.0), registry),
    ):
        with pytest.raises(VdmError, match=f"{first.parent}/promoted is damaged, it names no version"):
            act()
    assert len(Model(registry, "digits").versions()) == 2


def test_a_damaged_or_missing_history_is_named(two, registry):
    _, (first, second), _ = two
    path = first.parent / "history.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    for changed in ({"before": 5}, {"action": "lose"}, {"time": None}):
        path.write_bytes(b"".join(whole[:-1]) + json.dumps(json.loads(whole[-1]) | changed).encode() + b"\n")
        with pytest.raises(VdmError, match=f"{path}, line 4, is no change"):
            pipelines.promote.rollback("digits", registry, **PEOPLE)
    for line in (b"\xff\n", b"[" * 100_000 + b"\n"):
        path.write_bytes(line)
        with pytest.raises(VdmError, match=f"{path}, line 1, is no change"):
            pipelines.promote.rollback("digits", registry, **PEOPLE)
    path.unlink()
    with pytest.raises(VdmError, match=f"{path} is damaged or missing, it does not say what {second.name} replaced"):
        pipelines.promote.rollback("digits", registry, **PEOPLE)


def test_a_place_that_cannot_be_reached_is_one_line(monkeypatch):
    class ClientConnectorError(OSError):
        """What aiohttp raises without a network."""

    ClientConnectorError.__module__ = "aiohttp.client_exceptions"

    def unreachable(_):
        raise ClientConnectorError("Cannot connect to host")

    monkeypatch.setattr(type(epath.Path("gs://nonexistent/reg")), "exists", unreachable)
    reason = "gs://nonexistent/reg.*: Google Cloud cannot be reached"
    with pytest.raises(DataError, match=reason):
        pipelines.promote.rollback("m", "gs://nonexistent/reg")
    with pytest.raises(DataError, match=reason):
        promote("00000001-01234567", "gs://nonexistent/reg", name="m")
    with pytest.raises(DataError, match=reason):
        Model("gs://nonexistent/reg", "m").pointer("promoted")
    with pytest.raises(DataError, match="s3:// cannot be used"):
        pipelines.promote.rollback("m", "s3://bucket/reg")


def test_a_mistyped_name_makes_no_directory(two, registry):
    with pytest.raises(VdmError, match="mm has nothing promoted"):
        pipelines.promote.rollback("mm", registry, **PEOPLE)
    with pytest.raises(VdmError, match="mm has no version"):
        Model(registry, "mm").promote("00000001-01234567", **PEOPLE)
    assert [path.name for path in Path(registry).iterdir()] == ["digits"]


def test_what_is_still_being_copied_is_no_version(two, registry):
    model, (first, second), _ = two
    half = f"{first.name}.tmp-01234567"
    shutil.copytree(first, first.parent / half)
    assert model.versions() == [first.name, second.name]
    with pytest.raises(VdmError, match="has no version"):
        model.directory(half)


def test_nobody_promotes_between_the_comparison_and_the_pointer(two, registry, make, monkeypatch):
    _, (first, second), _ = two
    compare = pipelines.promote.objection
    locked = []

    def objection(candidate, promoted):
        with (first.parent / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked.append(promoted["bpd"])
        return compare(candidate, promoted)

    monkeypatch.setattr(pipelines.promote, "objection", objection)
    assert promote(make(3, 1.0), registry).before == second.name
    with pytest.raises(VdmError, match="it is worse"):
        promote(make(4, 9.0), registry)
    assert locked == [2.0, 1.0]
