"""What `vdm plan` changes, and in which order, when a config does not fit; the compiler is a stand-in."""

import json
import sys
from dataclasses import replace

import pytest

import configs
from pipelines import command, plan
from pipelines.planning import accelerators, compile
from pipelines.planning.report import rank
from vdm_lib.errors import ConfigError, VdmError

ANSWER = {
    "fits": True, "peak_bytes": 1, "collectives": {}, "compile_seconds": 0.0, "flops": 1.0, "bytes": 1.0, "cycles": None
}  # fmt: skip


def _compiler(needed_gib: dict[tuple, float], asked: list):
    """A stand-in for the compiler: the memory that a step needs by remat, microbatches and dtype."""

    def answer(config, accelerator, quick):
        remat = config.model.remat and (config.model.remat_keeps == "nothing" or "costly")
        key = (remat, config.train.microbatches, config.train.compute_dtype)
        asked.append((accelerator.name, *key))
        peak = int(needed_gib.get(key, 1.0) * 2**30)
        fits = peak <= accelerator.hbm_bytes_per_device
        # Parts of a batch take longer the smaller they are, and remat a third more.
        cycles = 10**6 * (100 + 10 * config.train.microbatches) * {False: 30, "costly": 32, True: 40}[remat] // 10
        return ANSWER | {"fits": fits, "peak_bytes": peak, "cycles": cycles if fits else None}

    return answer


def test_the_smallest_change_that_fits_is_found_by_compiling(monkeypatch, capsys):
    asked: list = []
    needed = {(False, 1, "float32"): 60.0, (True, 1, "float32"): 17.0, (True, 2, "float32"): 9.0}
    monkeypatch.setattr(plan, "_compile", _compiler(needed, asked))
    found = plan.run_checked(configs.load("imagenet32", {"model.remat": False}), "v3-8")
    assert not found.fits
    assert found.remedy is not None
    assert found.remedy.changes == {"model.remat": True, "train.microbatches": 2}
    assert len(asked) == 3
    assert "imagenet32 on v3-8 with model.remat=false: does not fit, 60.00 of 15.48 GiB" in str(found)
    assert "compiling imagenet32 for v3-8 with model.remat=true train.microbatches=2" in capsys.readouterr().err
    assert "imagenet32 on v3-8 with model.remat=true train.microbatches=2: fits" in str(found)


def test_what_cannot_be_enough_is_not_compiled(monkeypatch):
    asked: list = []
    needed = {(False, 1, "float32"): 200.0, (True, 1, "float32"): 70.0, (True, 8, "float32"): 10.0}
    monkeypatch.setattr(plan, "_compile", _compiler(needed | {(True, 4, "float32"): 18.0}, asked))
    found = plan.run_checked(configs.load("imagenet32", {"model.remat": False}), "v3-8")
    assert found.remedy is not None
    assert found.remedy.changes["train.microbatches"] == 8
    assert [each[2] for each in asked] == [1, 1, 8] or [each[2] for each in asked] == [1, 1, 4, 8]


def test_the_remedy_is_looked_for_as_quickly_as_the_plan(monkeypatch):
    needed = {(True, 1, "float32"): 17.0, (True, 2, "float32"): 9.0}
    monkeypatch.setattr(plan, "_compile", _compiler(needed, []))
    found = plan.run_checked(configs.load("imagenet32"), "v3-8", quick=True)
    assert found.quick and found.remedy is not None and found.remedy.quick
    assert "with the least effort" in str(found.remedy)


def test_ways_are_compared_by_the_cycles_that_the_compiler_estimates(monkeypatch):
    asked: list = []
    needed = {(False, 1, "float32"): 80.0, (False, 4, "float32"): 21.0, ("costly", 1, "float32"): 16.0}
    monkeypatch.setattr(plan, "_compile", _compiler(needed | {(True, 1, "float32"): 9.0}, asked))
    found = plan.run_checked(configs.load("imagenet32"), "v3-8", ways=True)
    # A half of 80 GiB is far too much, a quarter is worth a try.
    assert [each[1:3] for each in asked] == [
        (True, 1),
        (False, 1),
        (False, 4),
        (False, 8),
        ("costly", 1),
        ("costly", 2),
    ]
    assert found.fits
    without, costly = found.other_ways
    assert without.changes == {"model.remat": False, "train.microbatches": 8}
    assert costly.changes == {"model.remat_keeps": "costly", "train.microbatches": 2}
    assert found.quickest == costly.changes
    assert "quickest of these by the compiler's estimate: model.remat_keeps=costly train.microbatches=2" in str(found)
    assert "384 million cycles a step" in str(found)
    assert "17,080 million cycles a step" in str(replace(found, cycles_estimated=17_080 * 10**6))
    cycles = [row.split("|")[8].strip() for row in rank("imagenet32", [found], {}).markdown().splitlines()[2:]]
    assert cycles == ["440", "540", "**384**"]


def test_the_other_ways_of_what_has_no_remat_and_of_a_remedy(monkeypatch):
    monkeypatch.setattr(plan, "_compile", _compiler({}, []))
    found = plan.run_checked(configs.load("cifar10"), "v3-8", ways=True)
    assert [each.changes for each in found.other_ways] == [
        {"model.remat": True, "model.remat_keeps": "costly"}, {"model.remat": True}
    ]  # fmt: skip
    assert found.quickest == {}
    assert "by the compiler's estimate: the values asked for" in str(found)
    assert plan.run_checked(configs.load("swirl"), "v3-8", ways=True).other_ways == (), "there is no remat"
    needed = {(False, 1, "float32"): 17.0, ("costly", 1, "float32"): 17.0, ("costly", 2, "float32"): 17.0}
    monkeypatch.setattr(plan, "_compile", _compiler(needed, []))
    remedied = plan.run_checked(configs.load("cifar10"), "v3-8", ways=True)
    assert remedied.remedy is not None and remedied.remedy.changes == {"model.remat": True}
    assert remedied.quickest == {"train.microbatches": 2}


def test_remat_that_keeps_less_is_tried_first(monkeypatch):
    asked: list = []
    monkeypatch.setattr(plan, "_compile", _compiler({("costly", 1, "float32"): 17.0}, asked))
    changes = {"model.remat": True, "model.remat_keeps": "costly"}
    found = plan.run_checked(configs.load("cifar10", changes), "v3-8")
    assert found.remedy is not None and found.remedy.changes == {"model.remat_keeps": "nothing"}
    assert len(asked) == 2


def test_what_remat_keeps_is_kept_with_microbatches_where_that_fits(monkeypatch):
    asked: list = []
    needed = {("costly", 1, "float32"): 24.0, (True, 1, "float32"): 17.0, ("costly", 2, "float32"): 13.0}
    monkeypatch.setattr(plan, "_compile", _compiler(needed, asked))
    found = plan.run_checked(configs.load("cifar10_aug"), "v3-8")
    assert found.remedy is not None and found.remedy.changes == {"train.microbatches": 2}
    assert [each[1:3] for each in asked] == [("costly", 1), (True, 1), ("costly", 2)]
    monkeypatch.setattr(plan, "_compile", _compiler(needed | {("costly", 2, "float32"): 16.0}, asked))
    found = plan.run_checked(configs.load("cifar10_aug"), "v3-8")
    assert found.remedy is not None
    assert found.remedy.changes == {"model.remat_keeps": "nothing", "train.microbatches": 2}


def test_a_larger_slice_gets_no_remat_where_there_is_none(monkeypatch):
    asked: list = []

    def answer(config, accelerator, quick):
        asked.append((accelerator.name, config.model.remat))
        return ANSWER | {"fits": False, "peak_bytes": 2**40}

    monkeypatch.setattr(plan, "_compile", answer)
    found = plan.run_checked(configs.load("swirl"), "v2-8")
    assert found.remedy is None and found.failed == ()
    assert not any(remat for _, remat in asked)
    # Nor is one asked for that cannot share the batch with the microbatches there.
    asked.clear()
    plan.run_checked(configs.load("cifar10", {"train.microbatches": 16}), "v3-8")
    assert {name for name, _ in asked} == {"v3-8"}


def test_what_is_found_is_not_lost_for_a_compilation_that_fails(monkeypatch, capsys):
    def answer(config, accelerator, quick):
        if not config.model.remat or config.train.microbatches > 1:
            raise VdmError("exit code -9")
        return ANSWER | {"fits": config.model.remat_keeps == "nothing", "peak_bytes": 2**34}

    monkeypatch.setattr(plan, "_compile", answer)
    found = plan.run_checked(configs.load("imagenet32"), "v3-8", ways=True)
    assert found.fits
    assert found.failed == ("exit code -9", "exit code -9")
    assert "not found out: exit code -9" in str(found)
    assert "plan: exit code -9; going on without" in capsys.readouterr().err
    without_remedy = plan.run_checked(configs.load("imagenet32", {"model.remat_keeps": "costly"}), "v3-8")
    assert without_remedy.remedy is not None and without_remedy.failed == ()
    monkeypatch.setattr(plan, "_more_remat", lambda _: [{"model.remat": False}])
    without_remedy = plan.run_checked(configs.load("imagenet32", {"model.remat_keeps": "costly"}), "v3-8")
    assert without_remedy.remedy is None and without_remedy.failed == ("exit code -9",)


@pytest.mark.parametrize(
    "writes",
    [
        "sys.stdout.write('hello')", "pass", "print('{}')", "sys.stdout.buffer.write(b'\\xff\\n')",
        "sys.stderr.buffer.write(b'\\xff\\n'); sys.exit(1)",
    ],
)  # fmt: skip
def test_a_compiler_that_says_something_else_is_one_line(monkeypatch, writes):
    monkeypatch.setattr(plan, "COMPILER", (sys.executable, "-c", f"import sys; sys.stdin.read(); {writes}"))
    with pytest.raises(VdmError, match="the step of debug does not compile for v3-8: "):
        plan.plan_step(configs.load("debug"), accelerators.find("v3-8"))


def test_the_reason_is_the_compiler_s_not_jax_s_hint_under_it(monkeypatch):
    writes = (
        "import sys; sys.stdin.read(); sys.exit('ValueError: no\\n' + 20 * '-' + '\\nFor simplicity, JAX has removed')"
    )
    monkeypatch.setattr(plan, "COMPILER", (sys.executable, "-c", writes))
    with pytest.raises(VdmError, match=r"does not compile for v3-8: ValueError: no$"):
        plan.plan_step(configs.load("debug"), accelerators.find("v3-8"))


def test_lines_of_others_around_the_answer_are_passed_over(monkeypatch):
    writes = f"import sys; print('hello'); print({compile.ANSWER + json.dumps(ANSWER)!r}); print('goodbye')"
    monkeypatch.setattr(plan, "COMPILER", (sys.executable, "-c", writes))
    config = configs.load("debug", {"train.seed": 77})  # an answer is kept
    assert plan.plan_step(config, accelerators.find("v3-8")).peak_bytes_per_device == 1


def test_the_least_effort_compares_nothing(capsys):
    with pytest.raises(ConfigError, match="leave out --quick or --ways"):
        plan.run(configs.load("debug"), "v3-8", quick=True, ways=True)
    assert command.main(["plan", "debug", "--accelerator", "v3-8", "--quick", "--ways"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
