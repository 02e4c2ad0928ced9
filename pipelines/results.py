"""What the jobs return: plain values that a flow can read without loading jax, Beam or TensorFlow."""

from dataclasses import dataclass

from vdm_lib.report import BpdReport


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
    """

    data_dir: str
    name: str
    splits: dict[str, int]
    num_shards: int
    fingerprints: dict[str, str]
    seconds: float
    images_per_s: float


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


@dataclass(frozen=True)
class EvalResult:
    """What `vdm eval` measured: one report per step that was evaluated."""

    workdir: str
    reports: tuple[BpdReport, ...]


@dataclass(frozen=True)
class SampleResult:
    """Where `vdm sample` wrote its picture."""

    picture: str
    num_images: int
    num_steps: int
    step: int


@dataclass(frozen=True)
class ExportResult:
    """What `vdm export` made.

    Attributes:
        bundle: the directory of the bundle.
        step: step of the checkpoint.
        num_params: number of parameters.
        num_bytes: size of all files.
        max_difference: measured difference of each exported function from the model, by file name.
        bpd: bits per dimension of this checkpoint, None if not measured.
        bpd_stderr: Monte Carlo standard error of bpd, None if not measured.
    """

    bundle: str
    step: int
    num_params: int
    num_bytes: int
    max_difference: dict[str, float]
    bpd: float | None
    bpd_stderr: float | None


@dataclass(frozen=True)
class VerifyResult:
    """What `vdm verify` found; it raises if the bundle is not as it was written.

    Attributes:
        bundle: the directory of the bundle.
        num_files: files whose checksum was compared.
        max_difference: measured difference of each exported function from the model, by file name.
    """

    bundle: str
    num_files: int
    max_difference: dict[str, float]


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
