"""What the jobs about compressed images return; see `pipelines.results`. Imports no jax."""

from dataclasses import dataclass

from pipelines.tables import columns, duration, rounded


@dataclass(frozen=True)
class CompressResult:
    """What `vdm compress` wrote.

    Attributes:
        file: the file.
        num_images: images in it.
        num_chunks: chunks that can be read without the others.
        steps: steps T of the chain.
        num_bytes: size of the file.
        net_bpd: bits per dimension that an image more would take: what the stacks grew by.
        gross_bpd: the same with the bits that each chunk begins with.
        file_bpd: the whole file, with header, names and labels.
        verified: it was decoded again and compared.
        encode_seconds: time of the encoding, without compilation.
        seconds: wall time of the job.
    """

    file: str
    num_images: int
    num_chunks: int
    steps: int
    num_bytes: int
    net_bpd: float
    gross_bpd: float
    file_bpd: float
    verified: bool
    encode_seconds: float
    seconds: float

    def __str__(self) -> str:
        """Return the file, its rates and the time."""
        per_s = rounded(self.num_images / max(self.encode_seconds, 1e-9))
        return columns(
            [
                (f"{self.num_images:,} images in {self.file}",),
                ("size", f"{self.num_bytes:,} bytes in {self.num_chunks:,} chunks, {self.steps:,} steps"),
                ("net rate", f"{self.net_bpd:.4f} bits/dim"),
                ("gross rate", f"{self.gross_bpd:.4f} bits/dim, with the bits that chunks begin with"),
                ("of the whole file", f"{self.file_bpd:.4f} bits/dim, with header, names and labels"),
                ("verified", "decoded again, every pixel is the same" if self.verified else "no (--no-verify)"),
                ("time", f"{duration(self.seconds)} in all, {per_s} images/s encoded"),
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
        per_s = rounded(self.num_images / max(self.decode_seconds, 1e-9))
        head = f"{self.num_images:,} images in {self.out}, {duration(self.seconds)} ({per_s} images/s decoded)"
        lost = ", ".join(f"{first} to {last}" for first, last in self.lost)
        return f"{head}\nlost: images {lost}, listed in {self.out}/LOST.json" if lost else head
