"""Results of benches: what is written is read back, and what moved is named."""

import dataclasses
import json

import pytest

from benchmarks import compare
from benchmarks.__main__ import main
from benchmarks.figures import Figure, estimate, of_repetitions, single
from benchmarks.install import closure
from benchmarks.results import Bench, Results, kept, now, write


def _results(*figures: Figure, machine: dict | None = None) -> Results:
    return Results(
        machine or {"cores": 2}, (Bench("train", "2026-01-01T00:00:00+00:00", "abc", (_limit(100.0),), figures),)
    )


def _limit(gflop_per_s: float) -> Figure:
    return of_repetitions("matrix product", [gflop_per_s] * 5, "GFLOP/s")


def test_a_file_holds_what_was_measured(tmp_path):
    stem = tmp_path / "deep" / "one.two"
    figures = [of_repetitions("a", [1.0, 3.0, 2.0, 2.0, 2.0], "s", bar="under 4 s"), single("b", 1234.5, "x")]
    results = kept(stem).with_bench(now("train", [_limit(100.0)], figures))
    write(results, stem)
    assert kept(stem) == results
    table = (tmp_path / "deep" / "one.two.md").read_text()
    assert "Right before: matrix product 100 GFLOP/s (100 to 100)." in table
    assert "| a | 2 s | 1 to 3 | 5 | under 4 s |" in table
    assert "| b | 1,234 x |  |  |  |" in table


def test_a_median_is_of_at_least_five():
    with pytest.raises(ValueError, match="a: 4 repetitions, at least 5"):
        of_repetitions("a", [1.0] * 4, "s")


def test_an_estimate_has_its_standard_error_for_a_spread():
    figure = estimate("a", 2.0, 0.5, "bits/dim")
    assert (figure.least, figure.greatest, figure.repetitions) == (1.5, 2.5, None)


def test_a_bench_replaces_itself_and_leaves_the_others(tmp_path):
    old, other, new = (now(name, [], [single("a", v, "s")]) for name, v in [("x", 1), ("y", 2), ("x", 3)])
    results = kept(tmp_path / "r").with_bench(old).with_bench(other).with_bench(new)
    assert results.benches == (new, other)


def test_results_of_another_machine_are_not_added_to(tmp_path):
    write(_results(single("a", 1.0, "s"), machine={"cores": 999}), tmp_path / "r")
    with pytest.raises(ValueError, match="another machine"):
        kept(tmp_path / "r")
    (tmp_path / "notes.json").write_text("mine")
    with pytest.raises(ValueError, match="no results"):
        kept(tmp_path / "notes")


@pytest.mark.parametrize(
    ("old", "new", "moved"),
    [
        ([1.0, 1.1], [1.05, 1.2], False),
        ([1.0, 1.1], [1.11, 1.2], True),
        ([1.0, 1.1], [0.8, 0.99], True),
        ([1.0], [1.005], False),
        ([1.0], [1.02], True),
    ],
)
def test_a_figure_moved_if_its_repetitions_do_not_overlap(old, new, moved):
    def figure(values: list[float]) -> Figure:
        return single("a", values[0], "s") if len(values) == 1 else of_repetitions("a", values * 3, "s")

    assert compare.moved(figure(old), figure(new)) is moved
    lines = compare.report(_results(figure(old)), _results(figure(new)))
    assert len(lines) == 1 + moved


def test_what_was_not_taken_again_did_not_stay():
    old = _results(single("a", 1.0, "s"))
    new = old.with_bench(Bench("other", "2026-01-02T00:00:00+00:00", "", (), (single("b", 1.0, "s"),)))
    old = old.with_bench(Bench("other", "2026-01-01T00:00:00+00:00", "", (), (single("b", 1.0, "s"),)))
    assert compare.report(old, new)[-1] == "1 of 1 figures stayed within their spread; 1 others were not taken again"


def test_two_benches_may_have_figures_of_one_name():
    def results(value: float) -> Results:
        other = Bench("other", "2026-01-01T00:00:00+00:00", "", (), (single("a", 1.0, "s"),))
        return _results(single("a", value, "s")).with_bench(other)

    again = dataclasses.replace(results(2.0).benches[0], taken="2026-01-02T00:00:00+00:00")
    lines = compare.report(results(1.0), results(1.0).with_bench(again))
    assert lines[0] == "train: a: 1 s before, 2 s now, +100 %"


def test_what_one_of_both_lacks_and_another_machine_are_said():
    old, new = (
        _results(single("a", 1.0, "s")),
        _results(single("b", 1.0, "s"), machine={"cores": 4}),
    )
    text = "\n".join(compare.report(old, new))
    assert "only in the old results: train: a" in text
    assert "only in the new results: train: b" in text
    assert "machines differ" in text


def test_a_machine_that_moved_is_named():
    old = _results(single("a", 1.0, "s"))
    later = dataclasses.replace(old.benches[0], taken="2026-01-01T02:30:00+00:00")
    assert len(compare.report(old, old.with_bench(later))) == 1
    slower = dataclasses.replace(later, limits=(_limit(60.0),))
    said, _ = compare.report(old, old.with_bench(slower))
    assert said.startswith("train: the machine moved")
    assert "matrix product 100 GFLOP/s (100 to 100), now 60 GFLOP/s" in said
    assert compare.report(old, old) == ["0 of 0 figures stayed within their spread; 1 others were not taken again"]


def test_a_bench_that_is_asked_for_and_not_taken_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.compiling.figures", lambda: iter(()))
    monkeypatch.setattr("benchmarks.machine.limits", lambda: iter(()))
    for of_the_process in ("keep_quiet", "keep_freed_memory"):
        monkeypatch.setattr(f"benchmarks.__main__.{of_the_process}", lambda: None)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    assert main(["--out", str(tmp_path / "r"), "compiling"]) == 1
    assert main(["--out", str(tmp_path / "r"), "compare", "a.json", "b.json"]) == 2
    assert "python -m benchmarks.compare OLD.json NEW.json" in capsys.readouterr().err


def _one(value: object) -> str:
    return json.dumps(
        {"machine": {}, "benches": [{"limits": [], "figures": [{"name": "a", "unit": "s", "value": value}]}]}
    )


_NO_FIGURE = json.dumps({"benches": [{"figures": [{"nme": 1}]}], "machine": {}})


@pytest.mark.parametrize("content", ["", "{}", _NO_FIGURE, "[]", _one("x"), _one(None), "[" * 100_000])
def test_what_is_no_results_file_is_refused_in_one_line(tmp_path, capsys, content):
    file = tmp_path / "x.json"
    file.write_text(content)
    assert compare.main([str(file), str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{file}: no results")
    assert compare.main([str(tmp_path / "absent.json"), str(file)]) == 2


@pytest.mark.parametrize("wrong", [{"least": 2.0}, {"value": 10**400}])
def test_a_figure_that_no_bench_measures_is_refused(wrong):
    figure = {"name": "a", "unit": "s", "value": 1.0} | wrong
    text = json.dumps(
        {
            "machine": {},
            "benches": [{"name": "x", "taken": "2026-01-01", "commit": "", "limits": [], "figures": [figure]}],
        }
    )
    with pytest.raises(ValueError, match="no results"):
        Results.from_json(text)


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert main(["--out", str(file / "results"), "install"]) == 2
    assert str(file) in capsys.readouterr().err


def test_a_group_is_what_it_needs_and_what_that_needs():
    names = closure("vdm-pipeline[train]")
    assert {"jax", "jaxlib", "orbax-checkpoint", "numpy"} <= names
    assert "prefect" not in names
