"""What a person sees of a run: lines, rows, pictures, a trace; and what is said when memory is short."""

import dataclasses
import io
from functools import partial

import jax
import jax.monitoring
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

import configs
import pipelines.train
from pipelines.memory import out_of_memory_explained
from pipelines.training import memory
from tests.pipelines.rows import MEASURED
from vdm_lib.errors import MachineError
from vdm_lib.metrics import read_metrics
from vdm_lib.sharding import make_mesh

CHANGES = {"train.steps": 8, "train.checkpoint_every": 4, "train.sample_images": 4, "train.sample_steps": 3}


def events(directory) -> list[Event]:
    found = []
    for path in sorted(directory.iterdir()):
        data, start = path.read_bytes(), 0
        while start < len(data):
            # A record is its length, a checksum, the event, a checksum.
            length = int.from_bytes(data[start : start + 8], "little")
            found.append(Event.FromString(data[start + 12 : start + 12 + length]))
            start += length + 16
    return found


@pytest.fixture(scope="module")
def watched(digits_dir, tmp_path_factory):
    """A run with pictures and a trace, and how often something was compiled after its first checkpoint."""
    workdir = tmp_path_factory.mktemp("watched")
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if name.endswith("backend_compile_duration") else None
    )
    save, counts = pipelines.train.Checkpoints.save, []

    def counting(self, *args):
        save(self, *args)
        counts.append(len(compiled))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.train.Checkpoints, "save", counting)
        pipelines.train.run(configs.load("debug", CHANGES), digits_dir, str(workdir), profile_steps=2)
    # From the first checkpoint's end to the second's: the sampler and the schedule are compiled once, nothing else.
    return workdir, counts


def test_nothing_is_compiled_twice(watched):
    _, (first, second) = watched
    assert second - first <= 4


def test_rows_say_how_fast_and_how_large(watched):
    workdir, _ = watched
    for row in read_metrics(workdir / "metrics.jsonl"):
        assert set(MEASURED) < set(row)
        assert row["images_per_s"] == pytest.approx(16 * row["steps_per_s"])
        # No upper bound: the peak was measured a moment before, on a machine that does other work.
        assert row["flops_utilization"] > 0.0
        assert 1e7 < row["memory_bytes"] < 1e11
        assert row["parameter_norm"] > row["update_norm"] >= 0.0


def test_tensorboard_shows_samples_and_the_schedule(watched):
    workdir, _ = watched
    shown: dict[str, list[tuple[int, np.ndarray]]] = {}
    for event in events(workdir / "tensorboard"):
        for value in event.summary.value:
            if value.HasField("image"):
                picture = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
                shown.setdefault(value.tag, []).append((event.step, picture))
    assert {tag: [step for step, _ in pictures] for tag, pictures in shown.items()} == {
        "samples": [4, 8],
        "schedule": [4, 8],
    }
    assert all(picture.std() > 1.0 for pictures in shown.values() for _, picture in pictures)


def test_the_trace_is_there_for_both_viewers(watched):
    workdir, _ = watched
    names = [path.name for path in (workdir / "profile").rglob("*") if path.is_file()]
    assert any(name.endswith(".xplane.pb") for name in names)
    assert any("perfetto" in name for name in names)


def test_too_little_memory_is_said_with_numbers_before_the_first_step(digits_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "memory_bytes", lambda mesh: 20_000_000)
    config = configs.load("debug", CHANGES)
    with pytest.raises(
        MachineError, match=r"needs 0.03 GB on each device.* there are 0.02 GB: set train.microbatches=2"
    ):
        pipelines.train.run(config, digits_dir, str(tmp_path))
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_an_allocation_that_fails_names_the_knobs():
    config, mesh = configs.load("debug"), make_mesh()
    advice = partial(memory.advice, config, mesh)
    message = r"out of memory \(.*set train.microbatches=2 \(8 instead of 16 "
    with pytest.raises(MachineError, match=message), out_of_memory_explained(mesh, advice):
        # More than any address space holds.
        jax.jit(lambda: jax.numpy.zeros((1 << 24, 1 << 24)) + 1)().block_until_ready()
    train = dataclasses.replace(config.train, microbatches=16)
    assert "remat" not in memory.advice(config, mesh), "it saves nothing where layers are not looped over"
    looped = {"model.scan_layers": "on"}
    assert "model.remat=true" in memory.advice(configs.load("debug", looped), mesh)
    costly = configs.load("debug", looped | {"model.remat": True, "model.remat_keeps": "costly"})
    assert "model.remat_keeps=nothing" in memory.advice(costly, mesh)
    unused = configs.load("debug", looped | {"model.remat_keeps": "costly"})
    assert "model.remat=true (activations formed twice, all but the costly)" in memory.advice(unused, mesh)
    assert "microbatches" not in memory.advice(dataclasses.replace(config, train=train), mesh)
    with pytest.raises(ValueError, match="something else"), out_of_memory_explained(mesh, advice):
        raise ValueError("something else")
