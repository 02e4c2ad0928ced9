"""What a run shows in TensorBoard beside numbers: samples of the averaged parameters, and the noise schedule."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from vdm_lib.compiler import compiler_options
from vdm_lib.config import Config
from vdm_lib.images import picture
from vdm_lib.labels import labels_to_draw
from vdm_lib.model import VDM
from vdm_lib.sampling import sample
from vdm_lib.sharding import replicated
from vdm_lib.state import TrainState

Picture = UInt8[np.ndarray, "h w 3"]
_MIN_WIDTH = 256


class Pictures:
    """Draws the pictures of a state; all processes must draw together."""

    def __init__(self, config: Config, mesh: Mesh) -> None:
        """Compile nothing yet."""
        self._config = config
        model, train = VDM.from_config(config), config.train
        whole = replicated(mesh)
        self._times = np.linspace(0.0, 1.0, 101, dtype=np.float32)
        labels = labels_to_draw(config.model, "all" if config.model.num_classes else None, train.sample_images, 0.0)
        self._sample = jax.jit(
            lambda params, seed: sample(
                model, params, jax.random.key(seed), train.sample_images, train.sample_steps, labels=labels
            ),
            out_shardings=whole,
            compiler_options=compiler_options(mesh),
        )
        self._gamma = jax.jit(lambda params, t: model.gamma(params, t), out_shardings=whole)

    def draw(self, state: TrainState) -> dict[str, Picture]:
        """Return name -> picture: the same seed each time, so that a run can be seen to learn."""
        images = np.asarray(self._sample(state.ema_params, np.uint32(self._config.train.seed)))
        drawn = picture(images, self._config.data.num_levels)
        factor = -(-_MIN_WIDTH // drawn.shape[1])
        gamma = np.asarray(self._gamma(state.ema_params, jnp.asarray(self._times)))
        return {
            "samples": drawn.repeat(factor, axis=0).repeat(factor, axis=1),
            "schedule": schedule_plot(self._times, gamma),
        }


def schedule_plot(times: np.ndarray, gamma: np.ndarray) -> Picture:
    """Return a plot of the log signal-to-noise ratio -gamma(t) over t."""
    # The object interface needs no display and leaves no figure open behind it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(times, -gamma)
    axes.set(xlabel="t", ylabel="log SNR = -gamma(t)", title="noise schedule", xlim=(0, 1))
    axes.grid(alpha=0.3)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
