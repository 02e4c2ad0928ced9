"""What the jobs about compressed images return; see `pipelines.results`. Imports no jax."""

import math
from dataclasses import dataclass, field

from pipelines.tables import columns, duration, rounded
from vdm_lib.report import with_error


@dataclass(frozen=True)
class CompressResult:
    """What `vdm compress` wrote.

    Attributes:
        file: the file.
        num_images: images in it.
        num_left_out: files of the folders given that are no PNGs, and are not in it.
        num_chunks: chunks that can be read without the others.
        steps: steps T of the chain.
        num_bytes: size of the file.
        net_bpd: bits per dimension that an image more would take: what the stacks grew by.
        gross_bpd: the same with the bits that each chunk begins with.
        file_bpd: the whole file, with header, names and labels.
        verified: it was decoded again and compared.
        encode_seconds: time of the encoding, without compilation.
        verify_seconds: time of the decoding and comparing; None if it was left out.
        seconds: wall time of the job.
    """

    file: str
    num_images: int
    num_left_out: int
    num_chunks: int
    steps: int
    num_bytes: int
    net_bpd: float
    gross_bpd: float
    file_bpd: float
    verified: bool
    encode_seconds: float
    verify_seconds: float | None
    seconds: float

    def __str__(self) -> str:
        """Return the file, its rates and the time."""
        speeds = [f"{_per_s(self.num_images, self.encode_seconds)} images/s encoded"]
        chunks = "1 chunk" if self.num_chunks == 1 else f"{self.num_chunks:,} chunks"
        if self.verify_seconds is not None:
            speeds.append(f"{_per_s(self.num_images, self.verify_seconds)} images/s verified")
        return columns(
            [
                (f"{self.num_images:,} images in {self.file}",),
                *([("left out", f"{self.num_left_out:,} files that are no PNGs")] if self.num_left_out else []),
                ("size", f"{self.num_bytes:,} bytes in {chunks}, {self.steps:,} steps"),
                ("net rate", f"{self.net_bpd:.4f} bits/dim"),
                ("gross rate", f"{self.gross_bpd:.4f} bits/dim, with the bits that chunks begin with"),
                ("of the whole file", f"{self.file_bpd:.4f} bits/dim, with header, names and labels"),
                ("verified", "decoded again, every pixel is the same" if self.verified else "no (--no-verify)"),
                ("time", ", ".join([f"{duration(self.seconds)} in all", *speeds])),
            ]
        )


@dataclass(frozen=True)
class DecompressResult:
    """What `vdm decompress` wrote.

    Attributes:
        out: the directory.
        num_images: images that were written.
        lost: numbers of images that lay in damaged chunks, as pairs of the first and the last.
        decode_seconds: time of the decoding, without compilation.
        seconds: wall time of the job.
    """

    out: str
    num_images: int
    lost: tuple[tuple[int, int], ...]
    decode_seconds: float
    seconds: float

    def __str__(self) -> str:
        """Return one line, and one for what is lost."""
        per_s = _per_s(self.num_images, self.decode_seconds)
        head = f"{self.num_images:,} images in {self.out}, {duration(self.seconds)} ({per_s} images/s decoded)"
        lost = ", ".join(f"{first} to {last}" for first, last in self.lost)
        return f"{head}\nlost: images {lost}, listed in {self.out}/LOST.json" if lost else head


@dataclass(frozen=True)
class RefereeResult:
    """What `vdm eval --codec` measured, all in bits per dimension of the same images.

    Attributes:
        workdir: the run directory.
        step: updates behind the checkpoint.
        num_images: images that were encoded and decoded.
        steps: steps T of the code and of the bound.
        repeats: codes of each image, which begin with other bits; rates are their means.
        net_bpd: rate of the real code, without the bits that it begins with.
        net_bpd_stderr: its standard error: which latents were drawn is chance.
        gross_bpd: rate with the bits that it begins with.
        bound_bpd: the bound as `vdm eval` measures it.
        bound_bpd_stderr: its standard error, of these images.
        coder_loss_bpd: what the code takes above the ideal code of the very latents that it drew.
        coder_loss_bpd_stderr: its standard error; None of a single code.
        without_chance_bpd: net_bpd less the part of it that is chance and has the mean zero.
        difference_bpd: without_chance_bpd less bound_bpd.
        difference_stderr: its standard error, the bound's within.
        encode_seconds: time of the encoding of each code, without compilation.
        decode_seconds: the same of the decoding.
        other_bpd: rates of general formats.
    """

    workdir: str
    step: int
    num_images: int
    steps: int
    repeats: int
    net_bpd: float
    net_bpd_stderr: float
    gross_bpd: float
    bound_bpd: float
    bound_bpd_stderr: float
    coder_loss_bpd: float
    coder_loss_bpd_stderr: float | None
    without_chance_bpd: float
    difference_bpd: float
    difference_stderr: float
    encode_seconds: tuple[float, ...]
    decode_seconds: tuple[float, ...]
    other_bpd: dict[str, float] = field(default_factory=dict)

    @property
    def net_less_bound(self) -> tuple[float, float]:
        """The rate of the real code above the bound, and its standard error."""
        return self.net_bpd - self.bound_bpd, math.hypot(self.net_bpd_stderr, self.bound_bpd_stderr)

    def __str__(self) -> str:
        """Return the rates below each other."""
        codes = f", {self.repeats} codes of each" if self.repeats > 1 else ""
        head = f"{self.num_images:,} test images{codes}, {self.steps:,} steps, decoded to the same pixels"
        real = with_error(*self.net_less_bound)
        loss = f"{self.coder_loss_bpd:.5f}"
        if self.coder_loss_bpd_stderr is not None:
            loss = with_error(self.coder_loss_bpd, self.coder_loss_bpd_stderr)
        encoded, decoded = (
            _per_s(self.repeats * self.num_images, sum(each)) for each in (self.encode_seconds, self.decode_seconds)
        )
        speeds = f"{encoded} images/s encoded, {decoded} decoded"
        rows = [
            ("real code, net", f"{with_error(self.net_bpd, self.net_bpd_stderr)} bits/dim"),
            ("real code, gross", f"{self.gross_bpd:.3f} bits/dim, with the bits that it begins with"),
            ("bound with as many steps", f"{with_error(self.bound_bpd, self.bound_bpd_stderr)} bits/dim"),
            ("real code less bound", f"{real} bits/dim"),
            ("code without chance", f"{self.without_chance_bpd:.4f} bits/dim"),
            ("of it the coder's own loss", f"{loss} bits/dim"),
            ("without chance less bound", f"{with_error(self.difference_bpd, self.difference_stderr)} bits/dim"),
            *((name, f"{bpd:.3f} bits/dim") for name, bpd in self.other_bpd.items()),
            ("time", speeds),
        ]
        return columns([(f"step {self.step:,}: {head}",), *rows])


def _per_s(count: int, seconds: float) -> str:
    return rounded(count / max(seconds, 1e-9))
