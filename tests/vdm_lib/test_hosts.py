"""What several processes must agree on, with their answers given."""

import numpy as np
import pytest

from vdm_lib import hosts
from vdm_lib.errors import MachineError

FACTS = {"config": "{}", "data fingerprint": "ab", "workdir": "runs/a", "code version": "1"}


@pytest.mark.parametrize("name", FACTS)
def test_a_process_that_knows_otherwise_is_named_with_what(monkeypatch, name):
    def with_the_others(mine):
        theirs = mine.copy()
        theirs[list(FACTS).index(name), 5] ^= 1
        return np.stack([mine, mine, theirs])

    monkeypatch.setattr(hosts.jax, "process_count", lambda: 3)
    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", with_the_others)
    with pytest.raises(MachineError, match=f"process 2 has another {name} than process 0"):
        hosts.check_same(FACTS)


def test_processes_that_agree_go_on(monkeypatch):
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", lambda mine: np.stack([mine, mine]))
    hosts.check_same(FACTS)
