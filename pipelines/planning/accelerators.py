"""The TPU slices of Google Cloud from v2 to v6e: hosts, chips, topology, runtime version, memory and peak.

Peak and bandwidth are those of Google's page of each generation, `source`. The memory is what the compiler (libtpu
0.0.42.1) lets a program have, a little less than the page says. Sizes and topologies are those of the pages;
a few of each generation were compiled for. An array of float32 is multiplied in bfloat16 by default on a TPU, so that
one peak serves both.
"""

from dataclasses import dataclass

from vdm_lib.errors import ConfigError

_GIB = 2**30
_FLAT = {
    1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16", 512: "16x32",
    1024: "32x32",
}  # fmt: skip
_CUBIC = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8",
    1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip


@dataclass(frozen=True)
class Generation:
    """One generation of TPU.

    Attributes:
        name: prefix of the accelerator types, such as v5litepod.
        compiler_name: prefix of libtpu's topology names.
        units_per_chip: what the number in an accelerator type counts: 2 TensorCores or 1 chip.
        devices_per_chip: what jax sees: 2 where each TensorCore is a device, else 1.
        hbm_bytes_per_device: memory of one device that a program may use.
        peak_flops_per_chip: bfloat16 multiplications and additions per second.
        hbm_bytes_per_s_per_chip: bandwidth of that memory.
        runtime_version: image of the VM.
        chips: sizes of the slices that can be asked for.
        topologies: chips -> shape of the slice.
        source: page that gives peak and bandwidth.
    """

    name: str
    compiler_name: str
    units_per_chip: int
    devices_per_chip: int
    hbm_bytes_per_device: int
    peak_flops_per_chip: float
    hbm_bytes_per_s_per_chip: float
    runtime_version: str
    chips: tuple[int, ...]
    topologies: dict[int, str]
    source: str


_UBUNTU = "tpu-ubuntu2204-base"
_DOCS = "https://docs.cloud.google.com/tpu/docs/"
_CUBES = tuple(_CUBIC)
_SINGLE_POD = (1, 4, 8, 16, 32, 64, 128, 256)
GENERATIONS = {
    generation.name: generation
    for generation in (
        # Google's page of v2 gives no figures and refers to doi 10.1145/3360307. 4 x 45 TFLOP/s are the 180 of its
        # announcement; the bandwidth was not found and is from memory of that paper.
        Generation(
            "v2", "v2", 2, 2, int(7.48 * _GIB), 45e12, 700e9, _UBUNTU, (4, 16, 64, 128, 256), _FLAT, _DOCS + "v2"
        ),
        Generation(
            "v3", "v3", 2, 2, int(15.48 * _GIB), 123e12, 900e9, _UBUNTU, (4, 16, 32, 64, 128, 256, 512, 1024), _FLAT,
            _DOCS + "v3",
        ),
        Generation("v4", "v4", 2, 1, int(30.75 * _GIB), 275e12, 1200e9, _UBUNTU, _CUBES, _CUBIC, _DOCS + "v4"),
        Generation(
            "v5p", "v5p", 2, 1, int(95.74 * _GIB), 459e12, 2765e9, "v2-alpha-tpuv5", _CUBES, _CUBIC, _DOCS + "v5p"
        ),
        Generation(
            "v5litepod", "v5e", 1, 1, int(15.75 * _GIB), 197e12, 819e9, "v2-alpha-tpuv5-lite", _SINGLE_POD, _FLAT,
            _DOCS + "v5e",
        ),
        Generation(
            "v6e", "v6e", 1, 1, int(31.25 * _GIB), 918e12, 1638e9, "v2-alpha-tpuv6e", _SINGLE_POD, _FLAT, _DOCS + "v6e"
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Accelerator:
    """A slice that gcloud can create, such as v3-64."""

    name: str
    generation: Generation
    num_chips: int

    @property
    def num_hosts(self) -> int:
        """Virtual machines of the slice, each a worker: 4 chips a host, up to 8 on one host for v5e and v6e."""
        if self.generation.units_per_chip == 1 and self.num_chips <= 8:
            return 1
        return self.num_chips // 4

    @property
    def num_devices(self) -> int:
        """Devices that jax sees."""
        return self.num_chips * self.generation.devices_per_chip

    @property
    def topology(self) -> str:
        """Shape of the slice in chips, such as 4x8."""
        return self.generation.topologies[self.num_chips]

    @property
    def runtime_version(self) -> str:
        """Image that the VMs start with."""
        return self.generation.runtime_version

    @property
    def hbm_bytes_per_device(self) -> int:
        """Memory of one device."""
        return self.generation.hbm_bytes_per_device

    @property
    def peak_flops(self) -> float:
        """FLOP/s of the whole slice, bfloat16."""
        return self.generation.peak_flops_per_chip * self.num_chips

    @property
    def hbm_bytes_per_s(self) -> float:
        """Memory bandwidth of the whole slice."""
        return self.generation.hbm_bytes_per_s_per_chip * self.num_chips


def find(name: str) -> Accelerator:
    """Return the slice of an accelerator type.

    Raises:
      ConfigError: no such type; the message says which there are.
    """
    family, _, size = name.rpartition("-")
    if name.lower().startswith(("tpu7", "v7")):
        raise ConfigError(
            f"{name}: the TPU API, and so gcloud compute tpus, does not serve TPU7x: use Compute Engine or GKE, "
            "or a slice of v6e here"
        )
    if family == "v5e":
        raise ConfigError(f"{name}: Google Cloud calls this type v5litepod-{size}")
    generation = GENERATIONS.get(family)
    if generation is None:
        raise ConfigError(f"unknown accelerator {name!r}; families: " + ", ".join(f"{key}-N" for key in GENERATIONS))
    if size not in (sizes := sizes_of(generation)):
        raise ConfigError(
            f"unknown accelerator {name!r}; {family} comes as " + ", ".join(f"{family}-{n}" for n in sizes)
        )
    return Accelerator(name, generation, int(size) // generation.units_per_chip)


def sizes_of(generation: Generation) -> list[str]:
    """Return the numbers that may follow the name of a generation, smallest first."""
    return [str(chips * generation.units_per_chip) for chips in generation.chips]


def next_larger(accelerator: Accelerator) -> Accelerator | None:
    """Return the next larger slice of the same generation, None if it is the largest."""
    larger = [chips for chips in accelerator.generation.chips if chips > accelerator.num_chips]
    if not larger:
        return None
    generation = accelerator.generation
    return find(f"{generation.name}-{min(larger) * generation.units_per_chip}")
