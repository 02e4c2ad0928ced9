import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from pipelines import command, plan
from pipelines.planning import accelerators, prices
from pipelines.planning.report import PlanRanking
from tests.processes import is_alive, wait_for
from vdm_lib.errors import ConfigError, VdmError


@pytest.mark.parametrize(
    ("name", "hosts", "chips", "devices", "topology", "runtime"),
    [
        ("v3-8", 1, 4, 8, "2x2", "tpu-ubuntu2204-base"),
        ("v3-64", 8, 32, 64, "4x8", "tpu-ubuntu2204-base"),
        ("v4-8", 1, 4, 4, "2x2x1", "tpu-ubuntu2204-base"),
        ("v5p-128", 16, 64, 64, "4x4x4", "v2-alpha-tpuv5"),
        ("v5litepod-8", 1, 8, 8, "2x4", "v2-alpha-tpuv5-lite"),
        ("v5litepod-16", 4, 16, 16, "4x4", "v2-alpha-tpuv5-lite"),
        ("v6e-16", 4, 16, 16, "4x4", "v2-alpha-tpuv6e"),
    ],
)
def test_a_slice_by_its_name(name, hosts, chips, devices, topology, runtime):
    found = accelerators.find(name)
    assert (found.num_hosts, found.num_chips, found.num_devices) == (hosts, chips, devices)
    assert (found.topology, found.runtime_version) == (topology, runtime)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpu7x-8", "does not serve TPU7x"),
        ("v5e-16", "v5litepod-16"),
        ("v3-9", "v3-8, v3-32"),
        ("h100", "families"),
    ],
)
def test_an_accelerator_that_is_not_there(name, message):
    with pytest.raises(ConfigError, match=message):
        accelerators.find(name)


def test_every_size_of_the_table_has_a_shape_and_a_source():
    for generation in accelerators.GENERATIONS.values():
        assert generation.source.startswith("https://docs.cloud.google.com/tpu/docs/")
        for size in accelerators.sizes_of(generation):
            slice_ = accelerators.find(f"{generation.name}-{size}")
            sides = [int(side) for side in slice_.topology.split("x")]
            assert math.prod(sides) == slice_.num_chips
            assert slice_.num_hosts * 8 >= slice_.num_chips


ANSWER = {
    "fits": True,
    "peak_bytes": 1,
    "collectives": {},
    "compile_seconds": 0.0,
    "flops": 1.0,
    "bytes": 1.0,
    "cycles": None,
}


def test_a_roofline_is_the_longer_of_both_times(monkeypatch, tmp_path):
    file = tmp_path / "prices.toml"
    file.write_text('as_of = "2026-01-01"\n[on_demand]\nv3 = 2.0\n')
    monkeypatch.setattr(prices.read, "__defaults__", (file,))
    monkeypatch.setattr(prices.usd_per_hour, "__defaults__", ("on-demand", file))
    config = configs.load("cifar10", {"train.steps": 3600})
    slice_ = accelerators.find("v3-8")
    compute = plan.make_plan(config, slice_, {}, ANSWER | {"flops": 2 * slice_.peak_flops, "bytes": 0.0})
    assert (compute.bound, compute.step_seconds_roofline, compute.train_hours_roofline) == ("compute", 2.0, 2.0)
    assert compute.price_usd_roofline == pytest.approx(2.0 * 4 * 2.0)
    assert "$16 by the price file of 2026-01-01, which is no quote" in str(compute)
    memory = plan.make_plan(config, slice_, {}, ANSWER | {"flops": 0.0, "bytes": 3 * slice_.hbm_bytes_per_s})
    assert (memory.bound, memory.step_seconds_roofline) == ("memory", 3.0)
    other = plan.make_plan(config, accelerators.find("v6e-16"), {}, ANSWER)
    assert other.price_usd_roofline is None
    assert "no price" in str(other)


def test_images_that_leave_places_of_a_row_empty_are_told():
    def told(batch_size, **changes):
        config = configs.load("cifar10_aug", {"train.batch_size": batch_size} | changes)
        return str(plan.make_plan(config, accelerators.find("v3-64"), {}, ANSWER))

    assert "12 images at a time on each device, which has them in rows of 8: 16 take hardly longer" in told(768)
    assert "4 images at a time" in told(512, **{"train.microbatches": 2})
    assert "images at a time" not in told(1024)


def test_a_larger_slice_is_the_last_resort(monkeypatch):
    asked: list = []

    def answer(config, accelerator, quick):
        asked.append(accelerator.name)
        fits = accelerator.num_chips >= 16 and config.model.remat
        return ANSWER | {"fits": fits, "peak_bytes": 2**34}

    monkeypatch.setattr(plan, "_compile", answer)
    found = plan.run_checked(configs.load("cifar10_aug", {"model.remat": False}), "v3-8")
    assert found.remedy is not None
    assert (found.remedy.accelerator, found.remedy.changes) == ("v3-32", {"model.remat": True})
    assert asked[-2:] == ["v3-32", "v3-32"]
    assert set(asked[:-2]) == {"v3-8"}


def test_all_ranks_what_can_run_by_time_and_names_what_cannot_be_divided(monkeypatch):
    def answer(config, accelerator, quick):
        fits = config.model.remat or accelerator.name != "v3-64"
        return ANSWER | {"fits": fits, "flops": 1e15, "peak_bytes": 2**35 if not fits else 2**30}

    monkeypatch.setattr(plan, "_compile", answer)
    found = plan.run_checked(configs.load("cifar10", {"train.batch_size": 64}), "all")
    times = [(each.usable or each).train_hours_roofline for each in found.plans]
    assert times == sorted(times)
    assert len(found.plans) == len(plan.RANKED)
    rows = found.markdown().splitlines()
    assert len(rows) == 2 + len(plan.RANKED) + 1, "the slice that needs a change has a row for each"
    divided = plan.run_checked(configs.load("cifar10", {"train.batch_size": 24}), "v3-8,v6e-16")
    assert list(divided.refused) == ["v6e-16"]
    assert divided.markdown().splitlines()[-1].startswith("| cifar10 | v6e-16 | | train.batch_size=24 does not divide")


def test_a_batch_that_no_slice_can_share_is_wrong_usage():
    with pytest.raises(ConfigError, match=r"v3-8: .*multiple of 8.*; v4-8: .*multiple of 4"):
        plan.run_checked(configs.load("debug", {"train.batch_size": 10}), "v3-8,v4-8")


def test_a_compiler_that_dies_for_one_slice_does_not_lose_the_others(monkeypatch):
    def answer(config, accelerator, quick):
        if accelerator.name == "v4-8":
            raise VdmError("exit code -9")
        return ANSWER

    monkeypatch.setattr(plan, "_compile", answer)
    twice = plan.run_checked(configs.load("debug"), "v3-8,v3-8")
    assert isinstance(twice, PlanRanking) and len(twice.plans) == 1, "--markdown needs a table"
    found = plan.run_checked(configs.load("debug"), "v3-8,v4-8,v3-8")
    assert [each.accelerator for each in found.plans] == ["v3-8"]
    assert found.refused == {"v4-8": "exit code -9"}
    with pytest.raises(VdmError, match="exit code -9") as raised:
        plan.run_checked(configs.load("debug", {"train.batch_size": 12}), "v3-8,v4-8")
    assert not isinstance(raised.value, ConfigError)


def test_layers_are_looped_over_only_where_there_are_some():
    for name, scan_layers in (("swirl", "auto"), ("cifar10", "on")):
        asked = plan.request(configs.load(name), accelerators.find("v6e-1"))
        assert json.loads(asked["config"])["model"]["scan_layers"] == scan_layers


def test_a_compiler_without_an_end_is_one_line(monkeypatch):
    monkeypatch.setattr(plan, "_COMPILE_TIMEOUT_S", 0.01)
    with pytest.raises(VdmError, match="is not compiled for v3-8 after"):
        plan.plan_step(configs.load("debug"), accelerators.find("v3-8"))


PLANNER = """
import sys
import configs
from pipelines import plan
from pipelines.planning import accelerators
waits = "import os, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(120)"
plan.COMPILER = (sys.executable, "-c", "import sys; " + waits, sys.argv[1])
plan.plan_step(configs.load("debug"), accelerators.find("v3-8"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_the_compiler_ends_with_a_plan_that_is_killed(tmp_path):
    said = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", PLANNER, str(said)], stderr=subprocess.DEVNULL) as planner:
        try:
            wait_for(lambda: said.exists() and said.read_text().endswith("\n"), "the compiler")
        finally:
            planner.kill()
    wait_for(lambda: not is_alive(int(said.read_text())), "the end of the compiler")


def test_a_batch_that_the_devices_cannot_share_is_refused_before_compiling():
    with pytest.raises(ConfigError, match="multiple of 64"):
        plan.plan_step(configs.load("cifar10", {"train.batch_size": 100}), accelerators.find("v3-64"))
    with pytest.raises(ConfigError, match="64 devices of v3-64 x 4 microbatches: use a multiple of 256"):
        plan.plan_step(configs.load("cifar10", {"train.microbatches": 4}), accelerators.find("v3-64"))


def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VdmError, match="pip install"):
        plan.run(configs.load("debug"), "v3-8")


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ,
    reason="libtpu is not here: make setup-plan",
)


@needs_libtpu
def test_the_compiler_prints_nothing_into_other_commands():
    code = "from pipelines.quiet import keep_quiet; keep_quiet(); import jax; print(jax.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().isdecimal()
    assert done.stderr == ""


@needs_libtpu
@pytest.mark.slow
def test_the_real_compiler_ends_with_a_plan_that_is_killed():
    words = [sys.executable, "-m", "pipelines.command", "plan", "cifar10", "--accelerator", "v3-8"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as planner:
        children = Path(f"/proc/{planner.pid}/task/{planner.pid}/children")
        try:
            wait_for(children.read_text, "the compiler")
            compiler = int(children.read_text())
            # Long before its end: libtpu, which ignores the signal, is there.
            wait_for(lambda: "libtpu" in Path(f"/proc/{compiler}/maps").read_text(), "libtpu")
        finally:
            planner.kill()
    wait_for(lambda: not is_alive(compiler), "the end of the compiler", 10.0)


@needs_libtpu
@pytest.mark.slow
def test_a_small_step_compiles_for_a_slice(capsys):
    assert command.main(["plan", "debug", "--accelerator", "v5litepod-4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["fits"]
    assert 0 < found["peak_bytes_per_device"] < found["hbm_bytes_per_device"] <= 16 * 2**30
    assert found["collectives"]["all-reduce"] >= 1
    assert found["flops_per_step"] > 1e9
    assert found["cycles_estimated"] > 1e5
    assert command.main(["plan", "debug", "--accelerator", "v5litepod-4", "--quick"]) == 0
    assert "with the least effort: the memory of training differs" in capsys.readouterr().out
    assert found["step_seconds_roofline"] > 0


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_step_in_bfloat16_reduces_once_and_convolves_in_bfloat16(microbatches):
    changes = {"model.n_layer": 2, "train.batch_size": 128, "train.compute_dtype": "bfloat16"}
    config = configs.load("cifar10", changes | {"train.microbatches": microbatches})
    answer = plan._compile(config, accelerators.find("v3-64"), quick=False)
    assert answer["collectives"] == {"all-reduce": 1}, "gradients and metrics together, outside of the loops"
    assert set(answer["convolutions"]) == {"bf16"}
    # Both of each of three blocks and the two at the ends, forward and twice backward; less than of five blocks.
    assert 3 * (2 * 3 + 2) <= answer["convolutions"]["bf16"] < 3 * 2 * 5


@needs_libtpu
@pytest.mark.slow
def test_kernels_of_few_mib_hold_many_channels():
    # The compiler refuses this step for its attention, should that be one kernel.
    changes = {"model.n_layer": 1, "model.n_embd": 512, "train.batch_size": 512}
    answer = plan._compile(configs.load("cifar10_aug", changes), accelerators.find("v3-64"), quick=True)
    assert answer["fits"]


@needs_libtpu
@pytest.mark.slow
def test_the_full_size_reduces_once_too():
    # Left to itself the compiler makes four reductions of these gradients, by their size.
    answer = plan._compile(configs.load("cifar10_aug"), accelerators.find("v3-64"), quick=True)
    assert answer["collectives"] == {"all-reduce": 1}
