"""The plots of a report as SVG: small, so that they are read at the width of a telephone; a run has one colour."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from pipelines.run_report.record import Run
from vdm_lib.plots import draw_noise_levels

# A line is drawn through so many means; a screen shows no more.
_MOST_POINTS = 400
_COLORS = ("#1f5fa8", "#c2571a", "#2e7d4f", "#8a3d8f", "#6b6b6b", "#a8871f")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vdm",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Plot:
    """A figure that stands in the page itself."""

    title: str
    note: str
    data_url: str


def plots(runs: Sequence[Run]) -> list[Plot]:
    """Return every plot that the records of the runs have numbers for."""
    curves = [_gamma(run) for run in runs]
    kinds = [
        ("Bits per dimension", "line: training, with dropout; points: vdm eval ± 2 errors (band)", _bpd),
        ("The three terms", "dotted: reconstruction, dashed: prior, line: diffusion; together the bpd", _terms),
        ("Noise schedule", "gamma(t) = -log SNR(t)", _of_curve(curves, _gamma_over_time)),
        ("Signal to noise", "SNR(t) = exp(-gamma(t))", _of_curve(curves, _snr_over_time)),
        ("Density of log SNR", "how often training draws it: 1 / gamma'(t)", _of_curve(curves, _density)),
        (
            "Variance by time",
            "of one estimate of one image, newest evaluation; dashed: var_bpd",
            _variance_by_time,
        ),
        ("End points of gamma", "line: gamma(0), least noise; dashed: gamma(1), most noise", _end_points),
        (
            "Loss against log SNR",
            "diffusion loss by noise level, ± 2 errors, newest evaluation",
            _noise_levels,
        ),
        ("Gradient norm", "before clipping; band: smallest to largest", _column("gradient_norm", log=True)),
        ("Update norm", "of what was added to the parameters", _column("update_norm", log=True)),
        ("Learning rate", "with the warm-up", _column("learning_rate")),
        ("Steps per second", "without compiling, saving and drawing", _column("steps_per_s")),
    ]
    made = []
    for title, note, draw in kinds:
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(4.1, 2.8), layout="constrained")
            axes = figure.subplots()
            if draw(axes, runs):
                handles, labels = axes.get_legend_handles_labels()
                if labels:
                    axes.legend(handles[:8], labels[:8])
                made.append(Plot(title, note, _data_url(figure)))
    return made


def _data_url(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


def _binned(run: Run, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Return step, mean, smallest and largest value of up to _MOST_POINTS groups of neighbouring rows."""
    if name not in run.columns:
        return None
    known = np.isfinite(run.columns[name])
    steps, values = run.columns["step"][known], run.columns[name][known]
    if not len(values):
        return None
    starts = np.unique(np.linspace(0, len(values), min(_MOST_POINTS, len(values)), endpoint=False).astype(int))
    counts = np.diff([*starts, len(values)])
    means = np.add.reduceat(values, starts) / counts
    smallest, largest = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return np.add.reduceat(steps, starts) / counts, means, smallest, largest


def _line(axes: Axes, run: Run, name: str, color: str, label: str | None, style: str = "-") -> bool:
    binned = _binned(run, name)
    if binned is None:
        return False
    steps, means, smallest, largest = binned
    axes.plot(steps, means, style, color=color, label=label, linewidth=1.2, marker="." if len(steps) == 1 else "")
    axes.fill_between(steps, smallest, largest, color=color, alpha=0.15, linewidth=0)
    return True


def _step_axis(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _colored(runs: Sequence[Run]) -> list[tuple[Run, str, str | None]]:
    """Return each run with its colour and its name for the legend; one run alone needs none."""
    several = len({run.data_set for run in runs}) > 1
    names = [f"{run.name} ({run.data_set})" if several else run.name for run in runs]
    return [(run, _COLORS[i % len(_COLORS)], names[i] if len(runs) > 1 else None) for i, run in enumerate(runs)]


def _bpd(axes: Axes, runs: Sequence[Run]) -> bool:
    drawn, seen = False, []
    for run, color, label in _colored(runs):
        drawn |= _line(axes, run, "bpd", color, label or "training")
        if binned := _binned(run, "bpd"):
            seen += [*binned[1]]
        if reports := run.own_reports:
            steps, bpd, errors = (
                np.array([getattr(report, key) for report in reports]) for key in ("step", "bpd", "bpd_stderr")
            )
            name = None if label else "vdm eval"
            axes.errorbar(steps, bpd, 2 * errors, fmt="o", ms=3.5, color=color, capsize=2, label=name, linewidth=1)
            axes.fill_between(steps, bpd - 2 * errors, bpd + 2 * errors, color=color, alpha=0.3, linewidth=0)
            seen += [*bpd]
            drawn = True
    if drawn:
        _step_axis(axes)
        axes.set_ylabel("bits per dimension")
        # The first steps are far above all that matters.
        low, high = np.min(seen), np.quantile(seen, 0.9)
        axes.set_ylim(low - 0.1 * (high - low) - 0.01, high + 0.5 * (high - low) + 0.01)
    return drawn


def _terms(axes: Axes, runs: Sequence[Run]) -> bool:
    terms = {"bpd_recon": (":", "reconstruction"), "bpd_latent": ("--", "prior"), "bpd_diff": ("-", "diffusion")}
    drawn = False
    for run, color, label in _colored(runs):
        for i, (name, (style, term)) in enumerate(terms.items()):
            shown = term if label is None else label if style == "-" else None
            drawn |= _line(axes, run, name, color if label else _COLORS[i], shown, style)
    _step_axis(axes)
    axes.set_ylabel("bits per dimension")
    axes.set_yscale("symlog", linthresh=1e-3)
    return drawn


Curve = tuple[np.ndarray, np.ndarray]


def _of_curve(curves: Sequence[Curve | None], draw: Callable[..., None]) -> Callable[[Axes, Sequence[Run]], bool]:
    """Return what draws the schedule of each run that has one: draw(axes, times, gamma, color=..., label=...)."""

    def draw_all(axes: Axes, runs: Sequence[Run]) -> bool:
        for (_, color, label), curve in zip(_colored(runs), curves, strict=True):
            if curve is not None:
                draw(axes, *curve, color=color, label=label)
        return any(curve is not None for curve in curves)

    return draw_all


def _gamma_over_time(axes: Axes, times: np.ndarray, gamma: np.ndarray, **line: Any) -> None:
    axes.plot(times, gamma, **line)
    axes.set(xlabel="time t", ylabel="gamma", xlim=(0, 1))


def _snr_over_time(axes: Axes, times: np.ndarray, gamma: np.ndarray, **line: Any) -> None:
    axes.plot(times, np.exp(-gamma), **line)
    axes.set(xlabel="time t", ylabel="SNR", xlim=(0, 1), yscale="log")


def _density(axes: Axes, times: np.ndarray, gamma: np.ndarray, **line: Any) -> None:
    axes.stairs(np.diff(times) / np.diff(gamma), -gamma, baseline=None, **line)
    axes.set(xlabel="log SNR", ylabel="density of log SNR")
    axes.set_ylim(bottom=0.0)


def _variance_by_time(axes: Axes, runs: Sequence[Run]) -> bool:
    drawn = False
    for run, color, label in _colored(runs):
        report = run.own_reports[-1] if run.own_reports else None
        if report is not None and report.var_bpd is not None:
            by_time = report.var_bpd_by_time
            axes.stairs(by_time, np.linspace(0.0, 1.0, len(by_time) + 1), baseline=None, color=color, label=label)
            axes.axhline(report.var_bpd, color=color, linestyle="--", linewidth=1)
            drawn = True
    axes.set(xlabel="time t", ylabel="squared bits/dim", xlim=(0, 1))
    axes.set_ylim(bottom=0.0)
    return drawn


def _gamma(run: Run) -> Curve | None:
    """Return times and gamma(t) at the end of the record: a line but for the monotone networks."""
    if run.config.model.gamma_type in ("learnable_nnet", "learnable_monotone"):
        from pipelines.run_report.schedule import gamma_of_checkpoint

        return gamma_of_checkpoint(run.workdir, run.config)
    if "gamma_0" not in run.columns or not len(run.columns["gamma_0"]):
        return None
    return np.array([0.0, 1.0]), np.array([run.columns["gamma_0"][-1], run.columns["gamma_1"][-1]])


def _end_points(axes: Axes, runs: Sequence[Run]) -> bool:
    drawn = False
    for run, color, label in _colored(runs):
        drawn |= _line(axes, run, "gamma_0", color, label or "gamma(0)")
        drawn |= _line(axes, run, "gamma_1", color if label else _COLORS[1], None if label else "gamma(1)", "--")
    _step_axis(axes)
    axes.set_ylabel("gamma = -log SNR")
    return drawn


def _noise_levels(axes: Axes, runs: Sequence[Run]) -> bool:
    drawn = False
    for run, color, label in _colored(runs):
        levels = run.own_reports[-1].noise_levels if run.own_reports else ()
        if levels:
            draw_noise_levels(axes, levels, color=color, label=label)
            drawn = True
    return drawn


def _column(name: str, *, log: bool = False) -> Callable[[Axes, Sequence[Run]], bool]:
    def draw(axes: Axes, runs: Sequence[Run]) -> bool:
        drawn = [_line(axes, run, name, color, label) for run, color, label in _colored(runs)]
        _step_axis(axes)
        if log and any(drawn):
            axes.set_yscale("log")
        return any(drawn)

    return draw
