"""What the jobs return: plain values that a flow can read without loading jax, Beam or TensorFlow.

`str` of a result is what the command prints for people; the fields are what `--json` prints for programs.
"""

import math
from dataclasses import dataclass

from pipelines.tables import (
    FINGERPRINT_DIGITS,
    columns,
    differences,
    duration,
    measured_bpd,
    megabytes,
    parameter_rows,
    rounded,
)
from vdm_lib.report import BpdReport, with_error


@dataclass(frozen=True)
class PrepareResult:
    """What `vdm prepare` made.

    Attributes:
        data_dir: the data directory.
        name: name of the data set.
        splits: images of each split.
        num_shards: files of all splits together.
        fingerprints: hex SHA-256 over the ordered images and labels of each split.
        seconds: wall time of the job.
        images_per_s: images of all splits per second.
        rejected: bad images of each split that were left out.
        duplicates: images of each split whose pixels came before in it.
        test_images_in_train: test images whose pixels are in train; None without these two splits.
    """

    data_dir: str
    name: str
    splits: dict[str, int]
    num_shards: int
    fingerprints: dict[str, str]
    seconds: float
    images_per_s: float
    rejected: dict[str, int]
    duplicates: dict[str, int]
    test_images_in_train: int | None

    def __str__(self) -> str:
        """Return the data set, its files and the time, then images and fingerprint of each split."""
        total = sum(self.splits.values())
        rows = [("split", "images", "rejected", "duplicates", "fingerprint")]
        for name, count in self.splits.items():
            numbers = (f"{number:,}" for number in (count, self.rejected[name], self.duplicates[name]))
            rows.append((name, *numbers, self.fingerprints[name][:FINGERPRINT_DIGITS]))
        between = f"\n{self.test_images_in_train:,} test images are in train too" if self.test_images_in_train else ""
        return (
            f"{self.name} in {self.data_dir}: {total:,} images in {self.num_shards:,} files, "
            f"{duration(self.seconds)} ({rounded(self.images_per_s)} images/s)\n"
            f"{columns(rows, right=(1, 2, 3))}{between}"
        )


@dataclass(frozen=True)
class TrainResult:
    """What `vdm train` did.

    Attributes:
        workdir: the run directory.
        step: updates made so far, those of earlier calls included.
        stopped: a signal asked for a stop; the state is saved and the same command goes on from it.
        bpd: training bpd of the last logged interval, with dropout; None if no step was made.
        num_params: number of parameters.
        steps_per_s: steps per second of the last logged interval; None if no step was made.
        seconds: wall time of this call.
    """

    workdir: str
    step: int
    stopped: bool
    bpd: float | None
    num_params: int
    steps_per_s: float | None
    seconds: float

    def __str__(self) -> str:
        """Return how far the run is, then its size, speed and training bpd."""
        if self.bpd is None or self.steps_per_s is None:
            return f"{self.workdir} is already at step {self.step:,}, nothing to do"
        if self.stopped:
            head = (
                f"stopped on request at step {self.step:,}, the state is in {self.workdir}: "
                "the same command goes on from it"
            )
        else:
            head = f"trained to step {self.step:,} in {self.workdir}"
        return columns(
            [
                (head,),
                ("parameters", f"{self.num_params:,}"),
                ("speed (last interval)", f"{rounded(self.steps_per_s)} steps/s"),
                ("time of this call", duration(self.seconds)),
                ("training bpd (with dropout, last interval)", f"{self.bpd:.3f} bits/dim"),
            ]
        )


@dataclass(frozen=True)
class EvalResult:
    """What `vdm eval` measured: one report per step that was evaluated.

    Attributes:
        workdir: the run directory.
        reports: in the order of their measurement.
        stopped: a signal asked for a stop; the passes so far are kept and the same command goes on from them.
    """

    workdir: str
    reports: tuple[BpdReport, ...]
    stopped: bool = False

    def __str__(self) -> str:
        """Return one line for each report, the oldest step first, and one for the variance of its estimates."""
        lines = []
        for report in sorted(self.reports, key=lambda r: r.step):
            lines.append(f"step {report.step:,}: {report}")
            if report.var_bpd is not None and report.var_bpd_stderr is not None:
                variance = with_error(report.var_bpd, report.var_bpd_stderr)
                lines.append(f"  var_bpd {variance} (one image, one uniform time, schedule {report.schedule})")
        if self.stopped:
            lines.append(f"stopped on request, the passes so far are in {self.workdir}: the same command goes on")
        return "\n".join(lines) or f"{self.workdir} holds no checkpoint yet: nothing to do"


@dataclass(frozen=True)
class CompareResult:
    """What `vdm eval --compare` found.

    Attributes:
        first: the one checkpoint, as it was given.
        second: the other.
        steps: updates behind them.
        bpd: bits per dimension of both, under the same draws.
        bpd_stderr: Monte Carlo standard errors of both.
        difference: bpd of the first less that of the second.
        difference_stderr: its Monte Carlo standard error.
        difference_test_set_stderr: its standard error from the images.
        better: the one with the lower bpd, None if it cannot be told at two errors.
        num_images: images of one pass.
        passes: passes over them.
        seed: seed of times and noise.
        checkpoint_digests: SHA-256 over the parameters of both.
        data_fingerprint: of the split.
    """

    first: str
    second: str
    steps: tuple[int, int]
    bpd: tuple[float, float]
    bpd_stderr: tuple[float, float]
    difference: float
    difference_stderr: float
    difference_test_set_stderr: float
    better: str | None
    num_images: int
    passes: int
    seed: int
    checkpoint_digests: tuple[str, str]
    data_fingerprint: str

    def __str__(self) -> str:
        """Return both, their difference with its error, and the verdict."""
        error = math.hypot(self.difference_stderr, self.difference_test_set_stderr)
        verdict = "no difference that can be told at 2 errors"
        if self.better is not None:
            verdict = f"{self.better} is better, by {abs(self.difference) / error:.1f} errors"
        alone = math.hypot(*self.bpd_stderr)
        rows = [
            (f"{name} (step {step:,})", f"{with_error(bpd, stderr)} bits/dim")
            for name, step, bpd, stderr in zip(
                (self.first, self.second), self.steps, self.bpd, self.bpd_stderr, strict=True
            )
        ]
        rows += [
            ("difference", f"{with_error(self.difference, error)} bits/dim, of it Monte Carlo "
                           f"{self.difference_stderr:.2g} ({alone:.2g} if each had its own times and noise)"),
            ("measured on", f"{self.num_images:,} images x {self.passes} passes, common times and noise"),
            ("verdict", verdict),
        ]  # fmt: skip
        return columns(rows)


@dataclass(frozen=True)
class ExportResult:
    """What `vdm export` made.

    Attributes:
        bundle: the directory of the bundle.
        step: step of the checkpoint.
        num_params: number of parameters.
        num_bytes: size of all files.
        max_difference: measured difference of each exported function from the model, by file name.
        left_out: formats that were not written or not checked, and why.
        bpd: bits per dimension of this checkpoint, None if not measured.
        bpd_stderr: Monte Carlo standard error of bpd, None if not measured.
    """

    bundle: str
    step: int
    num_params: int
    num_bytes: int
    max_difference: dict[str, float]
    left_out: dict[str, str]
    bpd: float | None
    bpd_stderr: float | None

    def __str__(self) -> str:
        """Return what the bundle holds, its bpd with the error, and the differences that were measured."""
        return columns(
            [
                (f"bundle {self.bundle}: written, loaded in a fresh process and compared with the model",),
                ("checkpoint", f"step {self.step:,}"),
                ("parameters", f"{self.num_params:,}"),
                ("size", megabytes(self.num_bytes)),
                ("bpd", measured_bpd(self.bpd, self.bpd_stderr)),
                *differences(self.max_difference),
                *self.left_out.items(),
            ]
        )


@dataclass(frozen=True)
class VerifyResult:
    """What `vdm verify` found; it raises if the bundle is not as it was written.

    Attributes:
        bundle: the directory of the bundle.
        num_files: files whose checksum was compared.
        max_difference: measured difference of each exported function from the model, by file name.
        not_checked: formats whose package is not installed here, and which.
        same_data: whether a data directory holds what the model was trained and measured on; None if none was given.
        report: bits per dimension measured again; None if no data was given.
        claimed: bpd and its standard error as the bundle states them for the same images, else None.
    """

    bundle: str
    num_files: int
    max_difference: dict[str, float]
    not_checked: dict[str, str]
    same_data: bool | None = None
    report: BpdReport | None = None
    claimed: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return that the bundle is as it was written, and what was measured."""
        head = f"bundle {self.bundle}: verified, the checksums of {self.num_files:,} files are right"
        words = {None: [], True: [("data", "those of the bundle")], False: [("data", "other than the bundle's")]}
        rows = [(head,), *differences(self.max_difference), *self.not_checked.items(), *words[self.same_data]]
        if self.report is not None:
            rows.append(("bpd measured again", str(self.report)))
            rows.append(("bpd of the bundle", measured_bpd(*(self.claimed or (None, None)))))
        return columns(rows)


@dataclass(frozen=True)
class PromoteResult:
    """Which version of a model users shall take, by `vdm promote` or `vdm rollback`.

    Attributes:
        registry: the registry.
        name: name of the model.
        version: the version that is promoted now.
        before: the one that was promoted until then, None if there was none.
        bpd: bits per dimension of the version, None if not measured.
        bpd_stderr: Monte Carlo standard error of bpd.
    """

    registry: str
    name: str
    version: str
    before: str | None
    bpd: float | None
    bpd_stderr: float | None

    def __str__(self) -> str:
        """Return what is promoted, where it is, and what was before."""
        return columns(
            [
                (f"{self.name}: promoted is {self.version}",),
                ("bundle", f"{self.registry}/{self.name}/{self.version}"),
                ("bpd", measured_bpd(self.bpd, self.bpd_stderr)),
                ("before", self.before or "nothing was promoted"),
            ]
        )


@dataclass(frozen=True)
class ReportResult:
    """Where `vdm report` wrote its page.

    Attributes:
        page: the HTML file.
        num_bytes: its size.
        workdirs: the runs that it shows.
    """

    page: str
    num_bytes: int
    workdirs: tuple[str, ...]

    def __str__(self) -> str:
        """Return one line."""
        return f"report of {', '.join(self.workdirs)}: {self.page} ({megabytes(self.num_bytes)}, opens in any browser)"


@dataclass(frozen=True)
class ImportResult:
    """What `vdm import` wrote.

    Attributes:
        config: name of the experiment.
        destination: the run directory, or with --reverse the directory in the original's form.
        step: updates behind the checkpoint.
        num_params: number of parameters.
    """

    config: str
    destination: str
    step: int
    num_params: int

    def __str__(self) -> str:
        """Return what was written where."""
        return (
            f"{self.destination}: {self.config} at step {self.step:,}, {self.num_params:,} parameters with their "
            "average and the optimiser's state"
        )


@dataclass(frozen=True)
class LeafInfo:
    """One array of parameters."""

    shape: list[int]
    dtype: str


@dataclass(frozen=True)
class InfoResult:
    """What a config means.

    Attributes:
        config: name of the experiment.
        total: number of parameters.
        num_leaves: number of arrays that they lie in.
        checkpoint_bytes: parameters, average and both moments in float32.
        dims_per_image: height x width x channels.
        parameters: the arrays, by the names of google-research/vdm.
    """

    config: str
    total: int
    num_leaves: int
    checkpoint_bytes: int
    dims_per_image: int
    parameters: dict[str, LeafInfo]

    def __str__(self) -> str:
        """Return the sizes, and one line for each part of the network, like blocks together."""
        sizes = {path.removeprefix("params/"): math.prod(leaf.shape) for path, leaf in self.parameters.items()}
        return f"{self._sizes()}\n\n{columns(parameter_rows(sizes), right=(2, 3))}"

    def with_arrays(self) -> str:
        """Return the sizes, one line for each array, and the total again below them."""
        rows = [("array", "shape", "parameters")]
        for path, leaf in self.parameters.items():
            rows.append((path, " x ".join(map(str, leaf.shape)) or "scalar", f"{math.prod(leaf.shape):,}"))
        rows.append(("total", "", f"{self.total:,}"))
        return f"{self._sizes()}\n\n{columns(rows, right=(2,))}"

    def _sizes(self) -> str:
        return columns(
            [
                ("config", self.config),
                ("parameters", f"{self.total:,} in {self.num_leaves:,} arrays"),
                ("checkpoint", f"{megabytes(self.checkpoint_bytes)} (parameters, average and both moments)"),
                ("one image", f"{self.dims_per_image:,} dimensions"),
            ]
        )
