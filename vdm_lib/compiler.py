"""What XLA is told beside a program: on CPU, which of its two libraries works out a convolution."""

from jax.sharding import Mesh

# By default jaxlib 0.10 gives convolutions to YNNPACK. Eigen's are 7 to 20 % faster forwards and backwards on a
# processor with AVX2, and reach 98 % of what a matrix product does there; sums and products stay with YNNPACK, which
# is faster at them. Figures: benchmarks/NOTES.md.
_ON_CPU = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE",
}


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Return the options of `jax.jit` for a program of the network on these devices; they change speed, not meaning."""
    return dict(_ON_CPU) if mesh.devices.flat[0].platform == "cpu" else {}
