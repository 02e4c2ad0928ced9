import json
import os
import subprocess
import sys

import pytest

from pipelines.bundle import check
from pipelines.bundle.place import staged
from vdm_lib.errors import ConfigError, VdmError

COMMAND = [sys.executable, "-m", "pipelines.command"]
# What `vdm promote` does with a bundle once the fresh processes have checked it.
PROMOTE = """
import sys
import pipelines.promote
from pipelines.bundle.fresh import Checked
pipelines.promote.run_checks = lambda _: Checked()
print(pipelines.promote.run(sys.argv[1], sys.argv[2], who="ada", why="test").version)
"""
STAGE = """
import sys
from pipelines.bundle.place import staged
with staged(sys.argv[1], 0) as directory:
    (directory / "saved_model").mkdir()
    (directory / "saved_model" / "graph.pb").write_text("graph")
    (directory / "SHA256SUMS").write_text("sums")
    if len(sys.argv) > 2:
        # Read after the other files, and it cannot be.
        (directory / "unreadable").symlink_to("nowhere")
"""


def in_process(gcs, *command):
    """Run in another process: gcsfs keeps its connections and settings for the life of one."""
    return subprocess.run(command, env=os.environ | gcs.environment(), capture_output=True, text=True, check=False)


def test_a_bundle_is_published_whole_or_not_at_all(tmp_path):
    out = tmp_path / "bundles" / "a"
    with pytest.raises(ZeroDivisionError), staged(str(out), 0) as directory:
        (directory / "file").write_text("half")
        raise ZeroDivisionError
    assert list(out.parent.iterdir()) == []
    with staged(str(out), 0) as directory:
        (directory / "file").write_text("whole")
        assert not out.exists()
    assert (out / "file").read_text() == "whole"
    for taken in (out, out / "file"):
        with pytest.raises(ConfigError, match="is there already"), staged(str(taken), 0):
            pass
    with pytest.raises(VdmError, match="are needed"), staged(str(tmp_path / "b"), 10**18):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(VdmError, match="cannot write the bundle"), staged(str(tmp_path / "file" / "b"), 0):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundles", "file"]


def test_a_bundle_in_a_bucket_appears_with_its_sums_last(gcs):
    done = in_process(gcs, sys.executable, "-c", STAGE, "gs://bucket/bundles/a")
    assert done.returncode == 0, done.stderr
    assert gcs.store.objects["bucket"] == {
        "bundles/a/saved_model/graph.pb": b"graph",
        "bundles/a/SHA256SUMS": b"sums",
    }
    assert list(gcs.store.objects["bucket"])[-1] == "bundles/a/SHA256SUMS"
    again = in_process(gcs, sys.executable, "-c", STAGE, "gs://bucket/bundles/a")
    assert "is there already" in again.stderr
    gcs.store.always = 403
    refused = in_process(gcs, *COMMAND, "verify", "gs://bucket/bundles/a")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    assert "refuses access" in refused.stderr


def test_an_upload_that_fails_leaves_nothing(gcs):
    done = in_process(gcs, sys.executable, "-c", STAGE, "gs://bucket/bundles/a", "break")
    assert done.returncode == 1
    assert any("saved_model" in request and request.startswith("POST") for request in gcs.store.requests)
    assert gcs.store.objects["bucket"] == {}


@pytest.mark.slow  # three processes that load jax and gcsfs
def test_promote_and_rollback_in_a_bucket(gcs, bundle, tmp_path):
    done = in_process(gcs, sys.executable, "-c", PROMOTE, str(bundle), "gs://bucket/registry")
    assert done.returncode == 0, done.stderr
    version = done.stdout.strip()
    objects = gcs.store.objects["bucket"]
    files = [path for path in bundle.rglob("*") if path.is_file()]
    for path in files:
        assert objects[f"registry/debug/{version}/{path.relative_to(bundle).as_posix()}"] == path.read_bytes()
    assert objects["registry/debug/promoted"] == objects["registry/debug/latest"] == f"{version}\n".encode()
    lines = [json.loads(line) for line in objects["registry/debug/history.jsonl"].splitlines()]
    assert [(line["action"], line["who"]) for line in lines] == [("add", "ada"), ("promote", "ada")]
    assert len(objects) == len(files) + 3
    back = in_process(gcs, *COMMAND, "rollback", "debug", "--registry", "gs://bucket/registry")
    assert (back.returncode, back.stderr.count("\n")) == (1, 1)
    assert f"nothing was promoted before {version}" in back.stderr
    # What lies in the bucket is checked as it is: here one byte of it was flipped.
    name = f"registry/debug/{version}/params.safetensors"
    objects[name] = objects[name][:-1] + bytes([objects[name][-1] ^ 1])
    bad = in_process(gcs, *COMMAND, "verify", f"gs://bucket/registry/debug/{version}")
    assert (bad.returncode, bad.stderr.count("\n")) == (1, 1)
    assert "params.safetensors is damaged" in bad.stderr
    assert check.SUMS not in bad.stderr.split("damaged")[0]
