"""What XLA is told: on CPU which library convolves, on TPU to reduce all gradients at once."""

from jax.sharding import Mesh

_OPTIONS: dict[str, dict[str, str | int]] = {
    # By default jaxlib 0.10 gives convolutions to YNNPACK. Eigen's are 7 to 20 % faster forwards and backwards on a
    # processor with AVX2, and reach 98 % of what a matrix product does there; sums and products stay with YNNPACK,
    # which is faster at them. Figures: benchmarks/NOTES.md.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
    # By default reductions over devices are joined up to a size, and the gradients of 256 channels and 32 layers become
    # four to six of them. Nothing waits for the first one: the loop over layers gives all gradients at its end.
    "tpu": {"xla_jf_crs_combiner_threshold_in_bytes": 2_000_000_000},
}


def compiler_options(mesh: Mesh) -> dict[str, str | int]:
    """Return the options of `jax.jit` for a program of the network on these devices; they change speed, not meaning."""
    return _OPTIONS.get(mesh.devices.flat[0].platform, {})


def is_cpu(mesh: Mesh) -> bool:
    """Return whether programs for these devices are XLA's CPU backend's."""
    return mesh.devices.flat[0].platform == "cpu"


def is_one_cpu(mesh: Mesh) -> bool:
    """Return whether all of a program runs on one CPU device.

    There XLA's passes over a training step take more time the more instructions they see at once, so that it is
    compiled in parts, which run as fast as the whole.
    """
    return is_cpu(mesh) and mesh.size == 1
