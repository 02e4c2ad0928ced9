"""What the jobs about samples return; see `pipelines.results`."""

from dataclasses import dataclass, field

from pipelines.tables import columns
from vdm_lib.report import with_error


@dataclass(frozen=True)
class SampleResult:
    """Where `vdm sample` wrote its picture.

    Attributes:
        picture: the file.
        num_images: images that were drawn, or decoded.
        num_steps: sampling steps of each.
        step: updates behind the checkpoint.
        measured: what a picture has numbers for, by names with their units.
        times_each: how often each step is made, with --inpaint.
    """

    picture: str
    num_images: int
    num_steps: int
    step: int
    measured: dict[str, float] = field(default_factory=dict)
    times_each: int = 1

    def __str__(self) -> str:
        """Return one line, and one for each number."""
        times = "" if self.times_each == 1 else f", made {self.times_each}x"
        head = (
            f"{self.num_images:,} images of step {self.step:,}, {self.num_steps:,} sampling steps each{times}: "
            f"{self.picture}"
        )
        return columns([(head,), *((name, f"{value:.4g}") for name, value in self.measured.items())])


@dataclass(frozen=True)
class SampleQualityResult:
    """What `vdm sample-quality` measured.

    Attributes:
        report: the JSON file, with the protocol.
        picture: the PNG beside it.
        num_samples: samples that were drawn.
        num_steps: sampling steps of each.
        step: updates behind the checkpoint.
        measured: values and their standard errors, by name.
    """

    report: str
    picture: str
    num_samples: int
    num_steps: int
    step: int
    measured: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        """Return the files, and one line for each number."""
        head = f"{self.num_samples:,} samples of step {self.step:,}, {self.num_steps:,} sampling steps each: "
        rows = [(name, with_error(value, error)) for name, (value, error) in self.measured.items()]
        return columns([(f"{head}{self.report}, {self.picture}",), *rows])
