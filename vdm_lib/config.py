"""What an experiment is: frozen, keyword-only dataclasses of plain values.

The named experiments live in `configs/`; this module holds the types and the checks that span several fields.
It imports neither jax nor pydantic, so that the command line, the flows and the Beam jobs can read it at no cost.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

GammaType = Literal["fixed", "learnable_scalar", "learnable_nnet", "learnable_monotone"]
Augmentation = Literal["none", "flip_rotate", "flip_rotate_channels"]
Protocol = Literal["every_image", "reference"]
Estimator = Literal["bound", "importance_weighted", "ode"]
ControlVariate = Literal["linear_and_levels", "linear", "none"]
OdeTrace = Literal["rademacher", "exact"]
Dequantisation = Literal["decoder", "truncated_normal"]
EvalSchedule = Literal["own", "log_snr_linear", "beta_linear", "cosine"]
TimeSampling = Literal["importance", "uniform"]
EvalParams = Literal["ema", "raw"]
ScanLayers = Literal["auto", "on", "off"]
RematKeeps = Literal["nothing", "costly"]
ComputeDtype = Literal["float32", "bfloat16"]
Network = Literal["unet", "mlp"]
EvalLabels = Literal["given", "none"]
Sharding = Literal["replicated", "zero"]
DataPlace = Literal["auto", "replicated", "sharded", "host"]
OnNan = Literal["stop", "skip"]

# Steps are counted in int32 on the device.
_LARGEST_COUNT = 2**31 - 1
_LARGEST_BATCH = 1_000_000
_LARGEST_SIDE, _MOST_CHANNELS, _MOST_CLASSES = 4096, 64, 65_536


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set the experiment is about and how its training images are varied."""

    name: str
    """Name of the prepared data set, as its manifest gives it."""
    image_shape: tuple[int, int, int]
    """Height, width and channels of one image."""
    num_levels: int = 256
    """Values that one channel of one pixel can take: 0 to num_levels - 1."""
    augmentation: Augmentation = "none"
    """Random variation of the training images; a varied image is flagged to the network."""

    def __post_init__(self) -> None:
        """Raise ValueError for names, shapes and levels that no data set can have."""
        if re.fullmatch(r"\w[\w.-]{0,99}", self.name, re.ASCII) is None:
            raise ValueError(
                f"name is a word of letters, digits, '.', '_' and '-', as in a manifest, got {self.name!r:.60}"
            )
        height, width, channels = self.image_shape
        if not (1 <= min(height, width) <= max(height, width) <= _LARGEST_SIDE and 1 <= channels <= _MOST_CHANNELS):
            raise ValueError(
                f"image_shape is height, width (1..{_LARGEST_SIDE}) and channels (1..{_MOST_CHANNELS}), "
                f"got {self.image_shape}"
            )
        if not 2 <= self.num_levels <= 256:
            raise ValueError(f"num_levels must lie in 2..256, got {self.num_levels}")
        if self.augmentation != "none" and height != width:
            raise ValueError(f"rotations need square images, got {height}x{width}")
        if self.augmentation == "flip_rotate_channels" and channels < 2:
            raise ValueError("flip_rotate_channels needs more than one channel")

    @property
    def num_dims(self) -> int:
        """Dimensions that a likelihood per dimension is divided by: height x width x channels."""
        height, width, channels = self.image_shape
        return height * width * channels


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The score network and the noise schedule (Secs. 3 to 5 of arXiv 2107.00630)."""

    network: Network = "unet"
    """The network of the paper, for images; or dense residual layers (`mlp`) for data without neighbourhoods."""
    n_embd: int = 128
    """Channels of every block; a multiple of 32, the number of groups of each GroupNorm."""
    n_layer: int = 32
    """Residual blocks on the way down; the way up has one more and the middle has two. Of an mlp: its layers."""
    dropout: float = 0.1
    """Rate of the dropout inside each block."""
    with_attention: bool = False
    """Self-attention after every block, not in the middle only."""
    with_fourier_features: bool = True
    """Add sin(2 pi 2^n z) and cos(2 pi 2^n z) to the network's input (App. C)."""
    fourier_exponents: tuple[int, ...] = (6, 7)
    """The exponents n of the Fourier features."""
    gamma_type: GammaType = "learnable_scalar"
    """Shape of gamma(t) = -log SNR(t): a fixed line, a learned line, a learned monotone network, or one that keeps its
    end points and learns the way between them by the variance of the bound (`learnable_monotone`)."""
    gamma_min: float = -13.3
    """gamma(0) at initialisation; also the lower end of the network's normalised gamma."""
    gamma_max: float = 5.0
    """gamma(1) at initialisation; also the upper end of the network's normalised gamma."""
    timesteps: int = 0
    """Steps T of the diffusion; 0 is continuous time."""
    antithetic_time_sampling: bool = True
    """Spread the times of a batch evenly over [0, 1) from one random offset."""
    num_classes: int = 0
    """Classes that the network is told: labels 0 to num_classes - 1; 0 is a model without classes."""
    label_dropout: float = 0.0
    """Share of the training images whose label is withheld, so that the model can also do without and be guided."""
    remat: bool = False
    """Form activations again in the backward pass instead of keeping them, where layers are looped over."""
    remat_keeps: RematKeeps = "nothing"
    """What remat keeps of a block after all: nothing, or what is costly to form again, the result of the first
    convolution and the dropout mask."""
    scan_layers: ScanLayers = "auto"
    """Compile one layer per direction and loop over them, the same function; auto does so except on CPU."""

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that the network cannot have."""
        if not 32 <= self.n_embd <= 65_536 or self.n_embd % 32:
            raise ValueError(
                f"n_embd must be a multiple of 32 (GroupNorm has 32 groups) up to 65536, got {self.n_embd}"
            )
        if not 1 <= self.n_layer <= 1024:
            raise ValueError(f"n_layer must lie in 1..1024, got {self.n_layer}")
        of_unet = [name for name in ("with_attention", "remat") if getattr(self, name)]
        of_unet += ["remat_keeps"] if self.remat_keeps == "costly" else []
        of_unet += ["scan_layers"] if self.scan_layers == "on" else []
        if self.network == "mlp" and of_unet:
            raise ValueError(f"{of_unet[0]} is of the unet, not of network=mlp")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not 0 <= self.num_classes <= _MOST_CLASSES:
            raise ValueError(f"num_classes must be 0 (no classes) or lie in 1..{_MOST_CLASSES}, got {self.num_classes}")
        if not 0.0 <= self.label_dropout < 1.0:
            raise ValueError(f"label_dropout must lie in [0, 1), got {self.label_dropout}")
        if self.label_dropout and not self.num_classes:
            raise ValueError(f"label_dropout={self.label_dropout} needs labels: set model.num_classes")
        if not self.gamma_min < self.gamma_max:
            raise ValueError(f"gamma_min must be below gamma_max, got {self.gamma_min} and {self.gamma_max}")
        if not 0 <= self.timesteps <= _LARGEST_COUNT:
            raise ValueError(f"timesteps must be 0 (continuous time) or positive, below 2^31, got {self.timesteps}")
        if self.with_fourier_features and not self.fourier_exponents:
            raise ValueError("with_fourier_features needs at least one of fourier_exponents")
        if not all(-16 <= n <= 16 for n in self.fourier_exponents):
            raise ValueError(f"fourier_exponents must lie in -16..16, got {self.fourier_exponents}")

    @property
    def guidable(self) -> bool:
        """Whether labels were told in training and also withheld, so that it does without one and can be guided."""
        return self.label_dropout > 0.0

    @property
    def needs_labels(self) -> bool:
        """Whether it never went without a label."""
        return self.num_classes > 0 and not self.guidable


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up and an exponential moving average (EMA) of the parameters."""

    learning_rate: float = 2e-4
    """Learning rate after the warm-up."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0; the very first update has rate 0."""
    lr_decay: bool = False
    """Lower the learning rate linearly to 0 at train.steps."""
    b1: float = 0.9
    """Decay of Adam's first moment."""
    b2: float = 0.99
    """Decay of Adam's second moment."""
    eps: float = 1e-8
    """Adam's epsilon."""
    weight_decay: float = 0.01
    """Decoupled weight decay of every parameter whose name is not `bias`; multiplied by the learning rate."""
    ema_rate: float = 0.9999
    """Decay of the moving average; no bias correction."""
    gradient_clip_norm: float | None = None
    """Largest global norm of the gradient; None does not clip."""

    def __post_init__(self) -> None:
        """Raise ValueError for rates outside their range."""
        if self.learning_rate <= 0.0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.warmup_steps <= _LARGEST_COUNT:
            raise ValueError(f"warmup_steps must lie in 0..2^31-1, got {self.warmup_steps}")
        if self.eps <= 0.0:
            raise ValueError(f"eps must be positive, got {self.eps}")
        if self.weight_decay < 0.0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        for name in ("b1", "b2", "ema_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.gradient_clip_norm is not None and self.gradient_clip_norm <= 0.0:
            raise ValueError(f"gradient_clip_norm must be positive or null, got {self.gradient_clip_norm}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, on how much at once, and how often to write."""

    steps: int
    """Optimiser steps of the whole run."""
    batch_size: int = 128
    """Images per step over all devices together."""
    seed: int = 1
    """Seed of initialisation, batches, augmentation, times, noise and dropout."""
    microbatches: int = 1
    """Parts that a batch is worked on in, one after the other: less memory, the same update to rounding."""
    compute_dtype: ComputeDtype = "float32"
    """Type of the activations inside the network; parameters, losses and the optimiser are float32 always."""
    shard: Sharding = "replicated"
    """`zero` splits the optimiser's moments and the moving average over the devices: less memory, the same update."""
    data_place: DataPlace = "auto"
    """Where the training images lie: on every device, in parts over the devices, or on the hosts; auto goes by size."""
    log_every: int = 1000
    """Steps between two rows of metrics.jsonl; a row is the mean over these steps."""
    checkpoint_every: int = 10_000
    """Steps between two checkpoints; the last step is always saved."""
    checkpoint_minutes: float = 30.0
    """A checkpoint is also written when this many minutes have passed since the last."""
    keep_checkpoints: int = 5
    """Newest checkpoints to keep."""
    keep_every: int | None = None
    """Checkpoints of the multiples of this many steps are kept as well; null keeps none for that."""
    keep_best: bool = True
    """The checkpoint with the lowest bpd among the reports of vdm eval is kept as well."""
    on_nan: OnNan = "stop"
    """A loss or gradient that is not finite stops the run, or its update is left out (`skip`)."""
    max_skipped_steps: int = 100
    """With on_nan=skip: the run stops when more updates than this were left out."""
    sample_images: int = 16
    """Images drawn for TensorBoard every checkpoint_every steps, with a plot of the schedule; 0 draws neither."""
    sample_steps: int = 100
    """Steps of the sampler for these."""

    def __post_init__(self) -> None:
        """Raise ValueError for counts below one and numbers that exclude each other."""
        counts = ("steps", "batch_size", "microbatches", "log_every", "checkpoint_every", "keep_checkpoints",
                  "sample_steps")  # fmt: skip
        for name in counts:
            if not 1 <= getattr(self, name) <= _LARGEST_COUNT:
                raise ValueError(f"{name} must be at least 1 and below 2^31, got {getattr(self, name)}")
        if self.keep_every is not None and not 1 <= self.keep_every <= _LARGEST_COUNT:
            raise ValueError(f"keep_every must be null or at least 1 and below 2^31, got {self.keep_every}")
        if not self.checkpoint_minutes > 0.0:
            raise ValueError(f"checkpoint_minutes must be positive, got {self.checkpoint_minutes}")
        if not 0 <= self.max_skipped_steps <= _LARGEST_COUNT:
            raise ValueError(f"max_skipped_steps must lie in 0..2^31-1, got {self.max_skipped_steps}")
        if not 0 <= self.sample_images <= 1024:
            raise ValueError(f"sample_images must lie in 0..1024, got {self.sample_images}")
        if self.batch_size % self.microbatches:
            raise ValueError(f"batch_size={self.batch_size} does not divide into microbatches={self.microbatches}")
        if self.batch_size > _LARGEST_BATCH:
            raise ValueError(f"batch_size must be at most {_LARGEST_BATCH}, got {self.batch_size}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2^32-1, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How bits per dimension are measured."""

    protocol: Protocol = "every_image"
    """`every_image` of the split, `passes` times; or 100 batches as google-research/vdm draws them (`reference`)."""
    passes: int = 4
    """Times that every image of the split is evaluated, each with its own time and noise; 2 give an error. With
    target_se the least number."""
    batch_size: int = 256
    """Images per call of the network; changes the result of `reference` only: its times are spread over a batch."""
    seed: int = 0
    """Seed of times and noise; two checkpoints evaluated with one seed see the same noise."""
    estimator: Estimator = "bound"
    """The variational bound, its K-sample importance-weighted form, or the likelihood by the probability-flow ODE."""
    timesteps: tuple[int, ...] = ()
    """Steps T of the bound, one report each, 0 for continuous time; empty takes model.timesteps."""
    time_sampling: TimeSampling = "importance"
    """Times of a density fitted to the checkpoint, which needs fewer passes for the same error, or uniform ones."""
    control_variate: ControlVariate = "linear_and_levels"
    """Take known losses of simple denoisers off, which follow the network's under the same noise: that of the best
    linear one, and that of one that knows the levels."""
    target_se: float | None = None
    """Monte Carlo standard error at which no more passes are made; null makes `passes` of them."""
    max_passes: int = 64
    """The most passes that target_se may take."""
    schedule: EvalSchedule = "own"
    """Way of gamma between the model's end points: its own, or a fixed one. In continuous time the bound stays the
    same, its variance does not."""
    params: EvalParams = "ema"
    """Which parameters of the checkpoint: their moving average, or raw ones."""
    labels: EvalLabels = "given"
    """What a class-conditional model is told: the label of each image, or of none (`none`)."""
    samples: int = 1
    """K, samples per image and pass of the estimators importance_weighted and ode."""
    ode_steps: int = 0
    """Steps of equal size in gamma that the ODE is solved with; 0 chooses them by ode_tolerance."""
    ode_tolerance: float = 1e-5
    """Relative and absolute tolerance of the ODE's solver."""
    ode_trace: OdeTrace = "rademacher"
    """The trace of the ODE's divergence: estimated with one random vector, or exact for images of few dimensions."""
    dequantisation: Dequantisation = "decoder"
    """How the ODE gets from levels to latents: by p(x | z_0), or by noise truncated to the bin of each level."""

    def __post_init__(self) -> None:
        """Raise ValueError for counts below one."""
        if not 2 <= self.passes <= 1_000_000:
            raise ValueError(f"passes must be at least 2 (one has no error), at most 1000000, got {self.passes}")
        if not 1 <= self.samples <= 1_000_000:
            raise ValueError(f"samples must lie in 1..1000000, got {self.samples}")
        if not 0 <= self.ode_steps <= 100_000:
            raise ValueError(f"ode_steps must lie in 0..100000, got {self.ode_steps}")
        if not 1e-7 <= self.ode_tolerance <= 0.1:
            raise ValueError(f"ode_tolerance must lie in 1e-7..0.1, got {self.ode_tolerance}")
        if any(not 0 <= steps <= _LARGEST_COUNT for steps in self.timesteps):
            raise ValueError(f"timesteps must be 0 (continuous time) or positive, got {self.timesteps}")
        if not 2 <= self.max_passes <= 1_000_000:
            raise ValueError(f"max_passes must lie in 2..1000000, got {self.max_passes}")
        if self.target_se is not None and self.target_se <= 0.0:
            raise ValueError(f"target_se must be positive or null, got {self.target_se}")
        if not 1 <= self.batch_size <= _LARGEST_BATCH:
            raise ValueError(f"batch_size must lie in 1..{_LARGEST_BATCH}, got {self.batch_size}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2^32-1, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One experiment, complete: what `config.json` of a run holds."""

    name: str
    """Name of the experiment in `configs/`."""
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig
    eval: EvalConfig = field(default_factory=EvalConfig)
