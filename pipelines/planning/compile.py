"""Compile a training step for a TPU slice that is not here; run by `vdm plan` in a process of its own.

Reads one request as JSON on stdin and writes the answer as a line of stdout that begins with ANSWER. A process of its
own, because the variables below must be set before jax is imported, and because it gives back gigabytes when it ends.
"""

import json
import os
import re
import signal
import sys
import time
from collections import Counter
from typing import Any

from pipelines.launch.with_parent import DEATH_SIGNAL
from pipelines.quiet import NO_TPU_HERE

ANSWER = "answer: "
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    # Programs for a TPU cannot be loaded here.
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    **NO_TPU_HERE,
}
_COLLECTIVE = re.compile(r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(")
# Only what has a window of pixels: matrix products are convolutions without one, or of 1x1, in the compiler's words.
_CONVOLUTION = re.compile(r" = (\w+)\[[^=]* convolution\([^\n]*window=\{size=(?!1x1\b)\d+x\d+")
_REFUSED = re.compile(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm|total memory required[^(]*\(([\d.]+)([KMG])\)")
_UNIT = {"K": 2**10, "M": 2**20, "G": 2**30}


def compile_step(request: dict[str, Any]) -> dict[str, Any]:
    """Return what the compiler says about one training step.

    Args:
      request: `config` (the text of a config.json), `topology`, `options` (of the topology description) and `quick`:
        with the least effort.

    Returns:
      `flops` and `bytes` of the whole step over all devices, `fits`, `peak_bytes`, `compile_seconds`, `cycles` (of a
      device as the compiler estimates them, None if it does not), and `collectives` and `convolutions`: how many there
      are of each kind and of each type.
    """
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh

    import configs
    from pipelines.planning.estimate import estimated_cycles
    from pipelines.planning.work import count_work
    from vdm_lib.train import abstract_trained_state, make_train_step

    parent = os.getppid()
    config = configs.from_json(request["config"], "config")
    images = jax.ShapeDtypeStruct((config.train.batch_size, *config.data.image_shape), np.uint8)
    inputs = [images, jax.ShapeDtypeStruct(images.shape[:1], np.int32)] if config.model.num_classes else [images]
    if request["quick"]:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    started = time.monotonic()
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=request["topology"], **request["options"]
    ).devices
    # libtpu ignores it, and then the death of the process that asked would end nothing.
    signal.signal(DEATH_SIGNAL, signal.SIG_DFL)
    if os.getppid() != parent:
        sys.exit("the process that asked is gone")
    mesh = Mesh(np.asarray(devices), ("data",))
    traced = make_train_step(config, mesh).trace(abstract_trained_state(config, mesh), *inputs)
    work = count_work(traced.jaxpr)
    answer: dict[str, Any] = {"flops": work.flops, "bytes": work.num_bytes}
    lowered = traced.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise
        used, used_unit = (group for group in refused.groups() if group)
        return answer | {
            "fits": False,
            "cycles": None,
            "peak_bytes": int(float(used) * _UNIT[used_unit]),
            "collectives": {},
            "convolutions": {},
            "compile_seconds": time.monotonic() - started,
        }
    text = compiled.as_text()
    return answer | {
        "fits": True,
        "cycles": estimated_cycles(text),
        # Not the sum of its parts: donated arguments lie among the temporaries too.
        "peak_bytes": compiled.memory_analysis().peak_memory_in_bytes,
        "collectives": dict(Counter(_COLLECTIVE.findall(text))),
        "convolutions": dict(Counter(_CONVOLUTION.findall(text))),
        "compile_seconds": time.monotonic() - started,
    }


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    print(ANSWER + json.dumps(compile_step(json.loads(sys.stdin.read()))))
