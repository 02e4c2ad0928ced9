import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pydantic import ConfigDict, TypeAdapter

from vdm_lib.errors import CheckpointError
from vdm_lib.report import BpdReport, NoiseLevel, with_error

REPORT = BpdReport(
    step=6,
    split="test",
    bpd=2.63712,
    bpd_stderr=0.0041,
    bpd_between_passes_stderr=0.003,
    bpd_test_set_stderr=0.0061,
    bpd_recon=0.1,
    bpd_latent=0.002,
    bpd_diff=2.53512,
    protocol="every_image",
    estimator="bound",
    estimator_settings="",
    num_images=10_000,
    passes=4,
    network_calls=41_024,
    timesteps=0,
    time_sampling="importance",
    time_density=(0.5, 1.5),
    control_coefficients=(0.9, 1.0),
    image_control_coefficients=(0.3, 0.4),
    level_control_coefficients=(0.1, 0.2),
    target_stderr=None,
    params="ema",
    seed=0,
    dtype="float32",
    matmul_precision="float32",
    data_fingerprint="0" * 64,
    checkpoint_digest="1" * 64,
    code_version="0.1.0",
    seconds=1.0,
    images_per_s=41_024.0,
    noise_levels=(
        NoiseLevel(gamma_from=-1.0, gamma_to=1.0, bpd=2.5, bpd_stderr=0.1, rate_bpd=2.5, distortion_rmse=None),
    ),
)
SCHEMA = Path(__file__).parents[2] / "docs" / "bpd-report.schema.json"


def schema_text() -> str:
    for kind in (BpdReport, NoiseLevel):
        kind.__pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")
    schema = TypeAdapter(BpdReport).json_schema(mode="serialization")
    return json.dumps(schema, indent=2) + "\n"


def test_the_schema_in_the_docs_is_that_of_the_report():
    # To write it anew: python -c "import tests.vdm_lib.test_report as t; t.SCHEMA.write_text(t.schema_text())"
    assert SCHEMA.read_text() == schema_text()


def test_a_report_comes_back_from_its_json():
    assert BpdReport.from_fields(json.loads(json.dumps(asdict(REPORT))), "x") == REPORT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, "x is no report of this version .*schema version 1, this program reads 2"),
        ({"schema_version": 3}, "schema version 3"),
        ({"bpd": "2.6"}, "bpd is no number"),
        ({"bpd": True}, "bpd is no number"),
        ({"bpd": math.nan}, "bpd is no number"),
        ({"bpd_stderr": math.inf}, "bpd_stderr is no number"),
        ({"bpd_recon": 10**400}, "bpd_recon is no number"),
        ({"bpd_test_set_stderr": "x"}, "bpd_test_set_stderr is no number"),
        ({"step": 6.0}, "step is no whole number"),
        ({"passes": False}, "passes is no whole number"),
        ({"split": 5}, "split is no text"),
        ({"time_density": ["x"]}, "time_density is no list"),
        ({"noise_levels": [{**asdict(REPORT.noise_levels[0]), "bpd": "x"}]}, "bpd is no number"),
        ({"noise_levels": 5}, "is no report of this version"),
        ({"noise_levels": [{"gamma": 1}]}, "is no report of this version"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        BpdReport.from_fields({**asdict(REPORT), **change}, "x")
    assert "`vdm eval --force`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [[], {}, "text", None])
def test_other_json_is_no_report(fields):
    with pytest.raises(CheckpointError, match="is no report of this version"):
        BpdReport.from_fields(fields, "x")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.63712, 0.0041, "2.637 ± 0.004"),
        (2.63712, 0.0012, "2.6371 ± 0.0012"),
        (2.63712, 0.00194, "2.6371 ± 0.0019"),
        (2.63712, 0.00196, "2.637 ± 0.002"),
        (2.63712, 0.35, "2.64 ± 0.35"),
        (2.63712, 0.0, "2.6371 ± 0.0000"),
        (2.63712, 1e-7, "2.63712000 ± 0.00000010"),
    ],
)
def test_numbers_are_rounded_by_their_error(value, error, text):
    assert with_error(value, error) == text


def test_the_line_says_what_was_averaged_and_how():
    line = str(REPORT)
    assert line == "2.637 ± 0.004 bits/dim (10000 test images x 4 passes, ema parameters; ± 0.006 for another test set)"
    assert "100 steps" in str(replace(REPORT, timesteps=100))
