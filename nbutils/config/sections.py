"""The sections of a run's configuration: every leaf, its type, bounds and help.

Leaf names are unique over all sections, so that each override is flat. Hints for
forms lie in ``json_schema_extra``: ``step`` (wizard page), ``unit``, ``advanced``.
"""

from __future__ import annotations

from typing import Literal

from nbutils.config.leaf import DATA, MODEL, STORE, TRAIN, Section, leaf
from nbutils.config.tracking_section import TrackingSection

__all__ = [
    "SECTIONS",
    "CheckpointSection",
    "DataSection",
    "DisplaySection",
    "GuardSection",
    "LossSection",
    "ModelSection",
    "OptimSection",
    "PrecisionSection",
    "PreflightSection",
    "ScheduleSection",
    "Section",
    "TrackingSection",
    "TrainSection",
]


class DataSection(Section):
    """What is read, how it is split and batched."""

    data_dir: str | None = leaf(
        None, "Folder of the data; one sub-folder a class for images.", DATA
    )
    batch_size: int = leaf(32, "Samples per batch.", DATA, unit="samples", ge=1)
    val_fraction: float = leaf(
        0.15, "Share of the data held out for validation.", DATA, gt=0, lt=1
    )
    test_fraction: float = leaf(
        0.15, "Share of the data held out for the final test.", DATA, ge=0, lt=1
    )
    max_samples: int | None = leaf(
        None, "Use at most so many samples; none: all.", DATA, advanced=True, ge=1
    )
    max_bad_fraction: float = leaf(
        0.01,
        "Unreadable files tolerated, as a share of all; each is listed by name.",
        DATA,
        advanced=True,
        ge=0,
        lt=1,
    )
    num_workers: int = leaf(
        0, "Processes that load data; 0 loads in this one.", DATA, advanced=True, ge=0
    )
    shuffle: bool = leaf(
        True, "Draw a new order each epoch, from (seed, epoch).", DATA, advanced=True
    )
    drop_last: bool = leaf(
        False, "Leave out an epoch's last, smaller batch.", DATA, advanced=True
    )


class ModelSection(Section):
    """Which network, and how it is laid out in memory."""

    architecture: str | None = leaf(
        None, "Name of the network; for images a timm model name.", MODEL
    )
    pretrained: bool = leaf(
        False, "Start from published weights; needs a network or a cache.", MODEL
    )
    image_size: int | None = leaf(
        None, "Edge of the input; none: the model's own.", MODEL, unit="pixels", ge=1
    )
    drop_rate: float = leaf(0.0, "Dropout of the head.", MODEL, ge=0, lt=1)
    gradient_checkpointing: bool = leaf(
        False, "Recompute activations: less memory, more time.", MODEL, advanced=True
    )
    checkpoint_blocks: tuple[str, ...] = leaf(
        (),
        "Modules to recompute, by name pattern such as 'layers.*'; none given: the "
        "model's own switch, or its repeated blocks.",
        MODEL,
        advanced=True,
        accepts="a list of name patterns",
    )
    compile: bool = leaf(False, "Use torch.compile.", MODEL, advanced=True)
    channels_last: bool = leaf(
        False, "Keep image tensors channels-last in memory.", MODEL, advanced=True
    )


class LossSection(Section):
    """What is minimised."""

    label_smoothing: float = leaf(
        0.0, "Probability mass spread over all classes.", TRAIN, ge=0, lt=1
    )
    loss_weights: dict[str, float] = leaf(
        {}, "Weight of each named loss term; 1 where absent.", TRAIN, advanced=True
    )
    loss_phases: dict[str, list[tuple[float, float]]] = leaf(
        {},
        "Factor on a term's weight over the run: points [share of the run, factor], "
        "straight lines between them.",
        TRAIN,
        advanced=True,
        accepts="a mapping of term names to lists of [share, factor]",
    )


class OptimSection(Section):
    """How the weights move."""

    optimizer: Literal[
        "adamw", "adam", "sgd", "adam8bit", "adamw8bit", "paged_adamw8bit"
    ] = leaf("adamw", "Update rule; 8-bit ones need bitsandbytes.", TRAIN)
    lr: float = leaf(1e-3, "Peak learning rate.", TRAIN, gt=0)
    weight_decay: float = leaf(0.01, "Decoupled weight decay.", TRAIN, ge=0)
    lr_groups: dict[str, float] = leaf(
        {},
        "Factor on the learning rate of parameters, by name pattern.",
        TRAIN,
        advanced=True,
    )
    decay_groups: dict[str, float] = leaf(
        {},
        "Factor on the weight decay of parameters, by name pattern.",
        TRAIN,
        advanced=True,
    )
    decay_1d: bool = leaf(
        True, "Decay biases and normalisation weights as well.", TRAIN, advanced=True
    )
    momentum: float = leaf(0.9, "Momentum of SGD.", TRAIN, advanced=True, ge=0, lt=1)
    betas: tuple[float, float] = leaf(
        (0.9, 0.999), "Decay of Adam's two moments.", TRAIN, advanced=True
    )
    ema_decay: float | None = leaf(
        None,
        "Evaluate and export an average of the weights with this decay.",
        TRAIN,
        advanced=True,
        gt=0,
        lt=1,
    )


class ScheduleSection(Section):
    """How the learning rate moves, on planned optimizer steps."""

    schedule: Literal["constant", "onecycle", "cosine", "linear", "plateau"] = leaf(
        "constant", "Shape of the learning-rate curve.", TRAIN
    )
    warmup_steps: int = leaf(
        0,
        "Steps of linear warm-up; with onecycle those of its rise, 0: 30 % of the run.",
        TRAIN,
        unit="steps",
        advanced=True,
        ge=0,
    )
    min_lr: float = leaf(
        0.0, "Where cosine, linear and plateau end.", TRAIN, advanced=True, ge=0
    )
    land_before_cap: bool = leaf(
        True,
        "With max_hours: shorten the curve so that it ends before the time does.",
        TRAIN,
        advanced=True,
    )


class PrecisionSection(Section):
    """Number formats of the forward pass and the loss."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = leaf(
        "auto", "Format of the forward pass; auto: what the device does best.", TRAIN
    )
    loss_fp32: bool = leaf(
        True, "Compute the loss in fp32 under mixed precision.", TRAIN, advanced=True
    )


class TrainSection(Section):
    """How long, on what, and what counts as better."""

    epochs: int = leaf(10, "Passes over the training data.", TRAIN, ge=1)
    max_steps: int | None = leaf(
        None, "End after so many optimizer steps.", TRAIN, unit="steps", ge=1
    )
    max_hours: float | None = leaf(
        None, "End, saved, after so many hours.", TRAIN, unit="h", gt=0
    )
    accumulation: int = leaf(
        1, "Batches per optimizer step.", TRAIN, unit="batches", ge=1
    )
    seed: int = leaf(0, "Origin of every random number.", TRAIN, ge=0)
    device: str = leaf("auto", "auto, cpu, cuda, cuda:1 or mps.", TRAIN)
    patience: int | None = leaf(
        None, "Stop after so many evaluations without a new best.", TRAIN, ge=1
    )
    target: float | None = leaf(
        None, "Stop as soon as the monitored metric reaches this.", TRAIN
    )
    monitor: str = leaf(
        "val_loss", "Metric that decides best, patience and target.", TRAIN
    )
    mode: Literal["min", "max"] = leaf(
        "min", "Whether a lower or a higher monitored metric is better.", TRAIN
    )


class GuardSection(Section):
    """What is refused, clipped or recovered from."""

    clip_norm: float | None = leaf(
        1.0, "Clip the gradient's global norm; none: do not.", TRAIN, gt=0
    )
    clip_value: float | None = leaf(
        None, "Clip each gradient element.", TRAIN, advanced=True, gt=0
    )
    max_consecutive_refusals: int = leaf(
        3, "Refused updates in a row before the run stops.", TRAIN, advanced=True, ge=0
    )
    max_refused_fraction: float = leaf(
        0.05,
        "Refused updates per epoch before it stops.",
        TRAIN,
        advanced=True,
        ge=0,
        le=1,
    )
    max_rollbacks: int = leaf(
        1,
        "Returns to the last good snapshot once that budget is spent.",
        TRAIN,
        advanced=True,
        ge=0,
    )
    watchdogs: Literal["warn", "stop", "off"] = leaf(
        "warn",
        "When a run looks healthy and is not: say so, or stop as well.",
        TRAIN,
        advanced=True,
    )
    on_oom: Literal["split", "raise"] = leaf(
        "split",
        "Out of memory: halve the batch and go on, or raise.",
        TRAIN,
        advanced=True,
    )


class CheckpointSection(Section):
    """When the run is saved, and where copies go."""

    runs_dir: str = leaf("runs", "Folder of all run directories.", STORE)
    save_every_steps: int | None = leaf(
        None, "Save every so many steps.", STORE, unit="steps", ge=1
    )
    save_every_epochs: int | None = leaf(
        1, "Save every so many epochs.", STORE, unit="epochs", ge=1
    )
    save_every_minutes: float | None = leaf(
        None, "Save every so many minutes.", STORE, unit="min", advanced=True, gt=0
    )
    keep_last: int = leaf(2, "Newest checkpoints kept beside the best.", STORE, ge=1)
    save_in_background: bool = leaf(
        True, "Write while training goes on.", STORE, advanced=True
    )
    max_save_fraction: float = leaf(
        0.01,
        "Share of the run's time that saves which nobody asked for may take.",
        STORE,
        advanced=True,
        gt=0,
        le=1,
    )
    mirror: str | None = leaf(
        None,
        "Second place for a verified copy of each one: a folder, or an fsspec URL.",
        STORE,
        advanced=True,
    )


class PreflightSection(Section):
    """What is proven before the long cell starts."""

    preflight: Literal["run", "require", "skip"] = leaf(
        "run", "Before training: run the checks, demand a verdict, or skip.", STORE
    )


class DisplaySection(Section):
    """What the notebook shows while it trains."""

    panel: Literal["auto", "off"] = leaf("auto", "Live view of the run.", STORE)
    log_every_steps: int = leaf(
        10, "Optimizer steps per logged line.", STORE, unit="steps", advanced=True, ge=1
    )
    sample_every_s: float | None = leaf(
        30.0,
        "Seconds between readings of device and host; none: do not read them.",
        STORE,
        unit="s",
        advanced=True,
        gt=0,
    )
    gradient_stats_every_steps: int | None = leaf(
        200,
        "Steps between two looks at gradients and updates by module; none: no look.",
        STORE,
        unit="steps",
        advanced=True,
        ge=1,
    )
    histogram_every_steps: int | None = leaf(
        None,
        "Steps between two histograms of weights and gradients; none: do not count.",
        STORE,
        unit="steps",
        advanced=True,
        ge=1,
    )


SECTIONS: dict[str, type[Section]] = {
    "data": DataSection,
    "model": ModelSection,
    "loss": LossSection,
    "optim": OptimSection,
    "schedule": ScheduleSection,
    "precision": PrecisionSection,
    "train": TrainSection,
    "guard": GuardSection,
    "checkpoint": CheckpointSection,
    "tracking": TrackingSection,
    "preflight": PreflightSection,
    "display": DisplaySection,
}
