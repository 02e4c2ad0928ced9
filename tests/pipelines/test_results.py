from pipelines.results import EvalResult, ExportResult, PrepareResult, TrainResult
from tests.pipelines.reports import bpd_report

FINGERPRINT = "0123456789abcdef" * 4


def train_result(**changes) -> TrainResult:
    fields = {"workdir": "runs/a", "step": 1200, "stopped": False, "bpd": 2.01349, "num_params": 30_578_181}
    return TrainResult(**{**fields, "steps_per_s": 12.3456, "seconds": 92.4, **changes})


def test_a_prepared_data_set_is_a_table_with_short_fingerprints():
    files = {"data_dir": "data/x", "name": "cifar10", "splits": {"test": 10_000}, "num_shards": 3}
    time = {"seconds": 75.2, "images_per_s": 132.9786}
    found = {"fingerprints": {"test": FINGERPRINT}, "rejected": {"test": 4}, "duplicates": {"test": 12}}
    result = PrepareResult(**files, **time, **found, test_images_in_train=2)
    assert str(result).splitlines() == [
        "cifar10 in data/x: 10,000 images in 3 files, 1 min 15 s (133 images/s)",
        "split  images  rejected  duplicates  fingerprint",
        "test   10,000         4          12  0123456789ab",
        "2 test images are in train too",
    ]


def test_training_bpd_says_what_it_is():
    assert str(train_result()).splitlines() == [
        "trained to step 1,200 in runs/a",
        "parameters                                  30,578,181",
        "speed (last interval)                       12.3 steps/s",
        "time of this call                           1 min 32 s",
        "training bpd (with dropout, last interval)  2.013 bits/dim",
    ]


def test_a_run_that_was_stopped_or_had_nothing_to_do_says_so():
    assert str(train_result(stopped=True)).startswith("stopped on request at step 1,200, the state is in runs/a: ")
    idle = train_result(bpd=None, steps_per_s=None)
    assert str(idle) == "runs/a is already at step 1,200, nothing to do"


def test_the_bpd_of_a_bundle_has_its_error():
    fields = {"bundle": "b", "step": 9, "num_params": 1000, "num_bytes": 1_234_567, "left_out": {}}
    measured = str(ExportResult(**fields, max_difference={"eps.jaxexport": 0.0}, bpd=2.34567, bpd_stderr=0.0123))
    assert "bpd                          2.346 ± 0.012 bits/dim" in measured
    assert "size                         1.2 MB" in measured
    assert "not measured" in str(ExportResult(**fields, max_difference={}, bpd=None, bpd_stderr=None))


def test_reports_stand_in_the_order_of_their_steps():
    reports = tuple(bpd_report(step) for step in (1200, 90, 300))
    heads = [line.partition(":")[0] for line in str(EvalResult("runs/a", reports)).splitlines()]
    assert heads == ["step 90", "step 300", "step 1,200"]
