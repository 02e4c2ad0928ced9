"""What XLA is told: on CPU which library convolves, on TPU to reduce gradients at once and how large kernels are."""

from jax.sharding import Mesh

_OPTIONS: dict[str, dict[str, str | int | bool]] = {
    # By default jaxlib 0.10 gives convolutions to YNNPACK. Eigen's are 7 to 20 % faster forwards and backwards on a
    # processor with AVX2, and reach 98 % of what a matrix product does there; sums and products stay with YNNPACK,
    # which is faster at them. Figures: benchmarks/NOTES.md.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
    # By default reductions over devices are joined up to a size, and the gradients of 256 channels and 32 layers become
    # four to six of them. Nothing waits for the first one: the loop over layers gives all gradients at its end.
    "tpu": {"xla_jf_crs_combiner_threshold_in_bytes": 2_000_000_000},
}

# A core of v2 and v3 has 16 MiB of fast memory, and what one kernel takes of it decides how far its loops are unrolled.
# With half of it a step has a third less code, which takes a quarter less time and half a GiB less to compile, for 2 %
# more cycles. Attention as one kernel does not keep to it: the compiler refuses a step of 512 channels. On v5e
# half as much takes a tenth more cycles, and more of it no fewer. Figures: benchmarks/NOTES.md.
_SMALL_KERNELS: dict[str, str | int | bool] = {
    "xla_tpu_scoped_vmem_limit_kib": 8192,
    "xla_tpu_enable_flash_attention": False,
}
_OPTIONS_OF_TRAINING = {"TPU v2": _SMALL_KERNELS, "TPU v3": _SMALL_KERNELS}


def compiler_options(mesh: Mesh) -> dict[str, str | int | bool]:
    """Return the options of `jax.jit` for a program of the network on these devices; they change speed, not meaning."""
    return _OPTIONS.get(mesh.devices.flat[0].platform, {})


def training_options(mesh: Mesh) -> dict[str, str | int | bool]:
    """Return the options of `jax.jit` for a training step, the program that takes the longest to compile."""
    return compiler_options(mesh) | _OPTIONS_OF_TRAINING.get(mesh.devices.flat[0].device_kind, {})


def is_cpu(mesh: Mesh) -> bool:
    """Return whether programs for these devices are XLA's CPU backend's."""
    return mesh.devices.flat[0].platform == "cpu"


def is_one_cpu(mesh: Mesh) -> bool:
    """Return whether all of a program runs on one CPU device.

    There XLA's passes over a training step take more time the more instructions they see at once, so that it is
    compiled in parts, which run as fast as the whole.
    """
    return is_cpu(mesh) and mesh.size == 1
