import importlib.util
import os

import pytest

import configs
from pipelines import accelerators, plan, prices
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


def test_a_roofline_is_the_longer_of_both_times():
    config = configs.load("cifar10", {"train.steps": 3600})
    answer = {"fits": True, "peak_bytes": 1, "collectives": {}, "compile_seconds": 0.0}
    slice_ = accelerators.find("v3-8")
    compute = plan.make_plan(config, slice_, {}, answer | {"flops": 2 * slice_.peak_flops, "bytes": 0.0})
    assert (compute.bound, compute.step_seconds_roofline, compute.train_hours_roofline) == ("compute", 2.0, 2.0)
    per_chip_hour = prices.read().on_demand["v3"]
    assert compute.price_usd_roofline == pytest.approx(2.0 * 4 * per_chip_hour)
    memory = plan.make_plan(config, slice_, {}, answer | {"flops": 0.0, "bytes": 3 * slice_.hbm_bytes_per_s})
    assert (memory.bound, memory.step_seconds_roofline) == ("memory", 3.0)


def test_remat_comes_before_a_larger_slice():
    first, second, *_ = plan.remedies(configs.load("cifar10_aug"), accelerators.find("v3-8"))
    assert (first[0], first[1].name) == ({"model.remat": True}, "v3-8")
    assert (second[0], second[1].name) == ({}, "v3-32")


def test_a_batch_that_the_devices_cannot_share_is_refused_before_compiling():
    with pytest.raises(ConfigError, match="multiple of 64"):
        plan.plan_step(configs.load("cifar10", {"train.batch_size": 100}), accelerators.find("v3-64"))


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed here")
def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(VdmError, match="pip install"):
        plan.run(configs.load("debug"), "v3-8")


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ, reason="libtpu is not here"
)
def test_a_small_step_compiles_for_a_slice():
    (found,) = plan.run(configs.load("debug"), "v5litepod-4").plans
    assert found.fits
    assert 0 < found.peak_bytes_per_device < found.hbm_bytes_per_device
    assert found.collectives.get("all-reduce", 0) >= 1
