"""What `vdm plan` changes, and in which order, when a config does not fit; the compiler is a stand-in."""

import configs
from pipelines import plan

ANSWER = {"fits": True, "peak_bytes": 1, "collectives": {}, "compile_seconds": 0.0, "flops": 1.0, "bytes": 1.0}


def _compiler(needed_gib: dict[tuple, float], asked: list):
    """A stand-in for the compiler: the memory that a step needs by remat, microbatches and dtype."""

    def answer(config, accelerator, quick):
        key = (config.model.remat, config.train.microbatches, config.train.compute_dtype)
        asked.append((accelerator.name, *key))
        peak = int(needed_gib.get(key, 1.0) * 2**30)
        return ANSWER | {"fits": peak <= accelerator.hbm_bytes_per_device, "peak_bytes": peak}

    return answer


def test_the_smallest_change_that_fits_is_found_by_compiling(monkeypatch, capsys):
    asked: list = []
    needed = {(False, 1, "float32"): 60.0, (True, 1, "float32"): 17.0, (True, 2, "float32"): 9.0}
    monkeypatch.setattr(plan, "_compile", _compiler(needed, asked))
    found = plan.run_checked(configs.load("cifar10_aug", {"model.remat": False}), "v3-8")
    assert not found.fits
    assert found.remedy is not None
    assert found.remedy.changes == {"model.remat": True, "train.microbatches": 2}
    assert len(asked) == 3
    assert "cifar10_aug on v3-8 with model.remat=false: does not fit, 60.00 of 15.48 GiB" in str(found)
    assert "compiling cifar10_aug for v3-8 with model.remat=true train.microbatches=2" in capsys.readouterr().err
    assert "cifar10_aug on v3-8 with model.remat=true train.microbatches=2: fits" in str(found)


def test_what_cannot_be_enough_is_not_compiled(monkeypatch):
    asked: list = []
    needed = {(False, 1, "float32"): 200.0, (True, 1, "float32"): 70.0, (True, 8, "float32"): 10.0}
    monkeypatch.setattr(plan, "_compile", _compiler(needed | {(True, 4, "float32"): 18.0}, asked))
    found = plan.run_checked(configs.load("cifar10_aug", {"model.remat": False}), "v3-8")
    assert found.remedy is not None
    assert found.remedy.changes["train.microbatches"] == 8
    assert [each[2] for each in asked] == [1, 1, 8] or [each[2] for each in asked] == [1, 1, 4, 8]


def test_the_remedy_is_looked_for_as_quickly_as_the_plan(monkeypatch):
    needed = {(True, 1, "float32"): 17.0, (True, 2, "float32"): 9.0}
    monkeypatch.setattr(plan, "_compile", _compiler(needed, []))
    found = plan.run_checked(configs.load("cifar10_aug"), "v3-8", quick=True)
    assert found.quick and found.remedy is not None and found.remedy.quick
    assert "with the least effort" in str(found.remedy)
