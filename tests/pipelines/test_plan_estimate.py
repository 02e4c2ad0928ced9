"""The cycles that the TPU compiler writes into a program, with its loops counted."""

from pipelines.planning.estimate import estimated_cycles

# The form of libtpu's text, without what is not read.
PROGRAM = """HloModule jit_step, is_scheduled=true

%inner_condition.2 (wide.param: (s32[], f32[8])) -> pred[] {
  %constant.7 = s32[]{:T(256)} constant(3), metadata={op_name="x"}
  ROOT %lt = pred[]{:T(1024)} compare(%get-tuple-element.3, %constant.7), direction=LT
}

%inner_body.2 (wide.param.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion.1 = f32[8]{0:T(8)} fusion(%a), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"10","x":[]}
}

%condition.1 (param: (s32[], f32[8])) -> pred[] {
  %constant.8 = s32[]{:T(256)} constant(2)
}

%body.1 (param.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion.2 = f32[8]{0:T(8)} fusion(%a), kind=kOutput, calls=%g, backend_config={"estimated_cycles":"100"}
  %while.2 = (s32[], f32[8]) while(%tuple), condition=%inner_condition.2, body=%inner_body.2
}

%called.5 (p: f32[8]) -> f32[8] {
  %fusion.3 = f32[8]{0:T(8)} fusion(%p), kind=kLoop, calls=%f, backend_config={"estimated_cycles":"5000"}
}

ENTRY %main.3_spmd (param.9: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]) while(%tuple.1), condition=%condition.1, body=%body.1, metadata={op_name="scan"}
  %call.1 = f32[8]{0:T(8)} call(%x), to_apply=%called.5
  ROOT %fusion.4 = f32[8]{0:T(8)} fusion(%while.1), kind=kLoop, backend_config={"estimated_cycles":"70000"}
}
"""


def test_loops_inside_loops_count_as_often_as_they_turn():
    assert estimated_cycles(PROGRAM) == 2 * (100 + 3 * 10) + 5000 + 70000


def test_what_the_compiler_does_not_know_counts_nothing():
    assert estimated_cycles(PROGRAM.replace('"5000"', f'"{2**63 - 1}"')) == 2 * (100 + 3 * 10) + 70000


def test_a_program_without_estimates_has_none():
    assert estimated_cycles(PROGRAM.replace("estimated", "other")) is None
    assert estimated_cycles("") is None
