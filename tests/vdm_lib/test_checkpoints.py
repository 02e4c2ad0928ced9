import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_lib.checkpoints import FORM, Checkpoints, Keep
from vdm_lib.errors import CheckpointError, NewerCheckpointError
from vdm_lib.sharding import make_mesh, replicated
from vdm_lib.state import TrainState

METADATA = {"data_fingerprints": {}}


def state(step: int, size: int = 3) -> TrainState:
    params = {"w": jnp.arange(float(size)) + step}
    return TrainState(step=jnp.asarray(step), params=params, ema_params=params, opt_state={})


def write(workdir, steps, keep) -> list[int]:
    with Checkpoints(str(workdir), keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(state(step), METADATA)
        checkpoints.wait()
        return checkpoints.steps()


def test_the_newest_the_multiples_and_the_best_are_kept(tmp_path):
    best = {"step": None}
    keep = Keep(newest=2, every=4, best=lambda: best["step"])
    assert write(tmp_path, range(1, 6), keep) == [4, 5]
    best["step"] = 5
    assert write(tmp_path, range(6, 12), keep) == [4, 5, 8, 10, 11]
    # Another one is the best now.
    best["step"] = 10
    assert write(tmp_path, range(12, 15), keep) == [4, 8, 10, 12, 13, 14]


def test_a_checkpoint_newer_than_the_code_is_refused_and_left_alone(tmp_path):
    write(tmp_path, [1, 2], Keep(newest=5))
    path = tmp_path / "checkpoints" / "2" / "metadata" / "metadata"
    metadata = json.loads(path.read_text())
    assert metadata["form"] == FORM
    path.write_text(json.dumps(metadata | {"form": FORM + 1}))
    with Checkpoints(str(tmp_path)) as checkpoints:
        with pytest.raises(NewerCheckpointError, match=rf"checkpoint 2 of .* has form {FORM + 1}, .* up to {FORM}"):
            checkpoints.restore(2, state(2), replicated(make_mesh()))
        found = checkpoints.restore(1, state(1), replicated(make_mesh()))
    np.testing.assert_array_equal(found.params["w"], state(1).params["w"])


# The limit on the size of a file fails a write half-way, as a full disk does, and needs no rights.
FULL = """
import resource, sys
from tests.vdm_lib.test_checkpoints import METADATA, Checkpoints, CheckpointError, Keep, state
from pipelines.quiet import keep_quiet
keep_quiet()
with Checkpoints(sys.argv[1], keep=Keep(newest=1)) as checkpoints:
    checkpoints.save(state(1, 50_000), METADATA)
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    try:
        checkpoints.save(state(2, 50_000), METADATA)
        checkpoints.wait()
    except CheckpointError as error:
        print(error)
"""


def test_a_disk_that_fills_up_during_a_write_leaves_the_checkpoint_before(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    (message,) = done.stdout.splitlines()
    assert message.startswith(f"cannot write a checkpoint in {tmp_path / 'checkpoints'}: ")
    assert done.stderr == ""
    with Checkpoints(str(tmp_path)) as checkpoints:
        assert checkpoints.steps() == [1]
        checkpoints.restore(1, state(1, 50_000), replicated(make_mesh()))


def test_what_is_not_there_is_named(tmp_path):
    write(tmp_path, [3], Keep(newest=1))
    with Checkpoints(str(tmp_path)) as checkpoints, pytest.raises(CheckpointError, match="there are: 3"):
        checkpoints.metadata(4)
