"""Settings that several recipes share. Each field says what it is for; units are in the names."""

from dataclasses import dataclass, replace
from typing import Literal

from transreid_ssl.data.settings import DEFAULT_PATTERN
from transreid_ssl.errors import check_ranges

LINES = 20
"""A run of so many steps or more logs so many lines at least: fewer make no curve."""


@dataclass(frozen=True)
class RunSettings:
    """One run: where it goes, how long it takes, in which precision.

    Args:
        output: Run folder. The same command resumes what it finds there.
        seed: The one seed; every worker, view, sampler and process derives from it.
        epochs: Passes over the images; they shape the schedules, so a begun run keeps them.
        extend_to: Epochs at which a run ends that goes on after ``epochs`` of them: from where it
            is, its schedules are those of a run of so many epochs (the learning rate rises again).
        batch_size: Images an optimiser step, over all processes and accumulation steps together.
        accumulation: Micro-batches an optimiser step; raise it when a batch does not fit in memory.
        norm_images: Images that a batch norm takes its statistics of: what each GPU had in a run
            whose norms were not synchronised. Null: the micro-batch, of all GPUs together.
        precision: "no" is float32; "bf16" is fast on recent GPUs and CPUs (others take float32,
            and say so); "fp16" scales the loss and needs a GPU.
        num_workers: Processes that prepare images, for each training process.
        num_threads: Threads of each process on a CPU, at most one a core; null: one for each of its
            cores (less workers where threads wait in a busy loop: outside Linux, or with
            OMP_WAIT_POLICY active).
        log_every: Steps between lines in metrics.jsonl, or a twentieth of the run where that is
            less; the loss stays on its device in between.
        checkpoint_every: Steps between checkpoints (each holds the complete state).
        keep_checkpoints: How many of the newest checkpoints stay.
        keep_every: Checkpoints at multiples of so many steps stay for ever; 0 keeps none.
        collapse_spread: Spread of a batch's features below which all people are one point. While it
            is below, no checkpoint is written, and ``collapse_patience`` logged lines of it in a
            row stop the run.
        collapse_patience: How many lines, ``log_every`` steps apart; where lines are closer, as
            many steps. 0 never stops a run.
        not_finite: A step whose loss or gradient is not finite "stop"s the run, with the names of
            its images in the run folder, or is left out ("skip", for which the device is waited
            for in every step); with fp16 the scaler leaves steps out whose gradient overflows.
        compile: "auto" compiles the blocks of ViTs, ResNets and MGNs on a GPU (of a ViT some 15
            seconds at the start, of the others not yet timed; these stay as they are where norms
            meet other processes, and with gradient checkpointing); true on any device, and timm's
            networks too, whole; false nothing.
        compile_memory: Share of what the compiler would keep of a block for its backward pass; what
            is cheapest to compute again is not kept. 0.3 keeps about half of what 0.8 does (DINO,
            ViT-S+ICS, bf16) for a tenth more matrix products: 0.8 where a GPU has memory to spare.
        shard: Keep a part of weights, gradients and optimiser on each process, where there are
            several (FSDP2): less memory, more traffic, and the same numbers but for the order of
            sums. Checkpoints are whole, so that a run may go on either way. Not with fp16.
        timeout_minutes: How long a process waits for another before the run is given up; raise it
            where the main process takes longer to list, cluster or evaluate.
        verbosity: From which level on the console shows what is logged; "warning" leaves progress
            out, "debug" tells of checkpoints too. train.log in the run folder always has progress.
        page: Leave report.html in the run folder, which holds small pictures of people in the data;
            null: unless the environment has TRANSREID_SSL_PAGES=0.
        tracker: An Accelerate tracker ("tensorboard", "wandb", "mlflow", …) beside metrics.jsonl:
            settings, values and curves.png; its package comes with transreid_ssl[tracking].
        overwrite: Throw away what the run folder holds and begin anew.
    """

    output: str = "outputs/run"
    seed: int = 0
    epochs: int = 100
    extend_to: int | None = None
    batch_size: int = 512
    accumulation: int = 1
    norm_images: int | None = None
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    num_workers: int = 8
    num_threads: int | None = None
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    keep_every: int = 0
    collapse_spread: float = 0.005
    collapse_patience: int = 20
    not_finite: Literal["stop", "skip"] = "stop"
    compile: bool | Literal["auto"] = "auto"
    compile_memory: float = 0.3
    shard: bool = False
    timeout_minutes: float = 30
    page: bool | None = None
    verbosity: Literal["debug", "info", "warning", "error"] = "info"
    tracker: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self, seed=(0, 2**32 - 1), epochs=(1, None), batch_size=(1, None),
            accumulation=(1, None), norm_images=(1, None), num_workers=(0, None),
            num_threads=(1, None), log_every=(1, None), checkpoint_every=(1, None),
            keep_checkpoints=(1, None), keep_every=(0, None), collapse_spread=(0, None),
            collapse_patience=(0, None), extend_to=(self.epochs, None),
            timeout_minutes=(0.1, None), compile_memory=(0, 1),
        )  # fmt: skip

    @property
    def total_epochs(self) -> int:
        """Epochs at the end of the run."""
        return self.extend_to or self.epochs

    def paced(self, total_steps: int) -> "RunSettings":
        """The same, with as many lines in a run of ``total_steps`` as a curve needs.

        It depends on nothing else, so that a resumed run logs at the same steps; and a collapse is
        borne for as many steps as without it.
        """
        apart = max(1, min(self.log_every, total_steps // LINES))
        patience = self.collapse_patience * self.log_every // apart
        return replace(self, log_every=apart, collapse_patience=patience)


@dataclass(frozen=True)
class PoolSettings:
    """The unlabelled crops.

    Args:
        pool: A folder of images, a .txt or .parquet list, a folder of Parquet shards, an LMDB
            folder, or "demo" for generated people.
        subset: A list of names to keep (.parquet with a column "image", or .txt), as
            ``python -m transreid_ssl.cfs select`` writes it.
        max_bad_fraction: Share of unreadable images above which the run refuses to start.
        statistics: What images are normalised with: "imagenet" (TransReID-SSL's pre-training),
            "luperson" (LUPerson's own, for its MoCo) or "half" (0.5); the weights carry it along.
    """

    pool: str = "demo"
    subset: str | None = None
    max_bad_fraction: float = 0.01
    statistics: Literal["imagenet", "luperson", "half"] = "imagenet"

    def __post_init__(self) -> None:
        check_ranges(self, max_bad_fraction=(0, 1))


@dataclass(frozen=True)
class BackboneSettings:
    """The network.

    Args:
        name: A timm name: vit_{nano,tiny,small,base,large}_patch16_{reid,ics,conv}
            (plain patches, the IBN stem, the same stem with batch norms), vit_nano_patch8_…,
            vit_small_patch16_heads12_reid (MoCo v3's, of 12 heads),
            vit_{tiny,small,base,large}_patch16_pass (PASS's, with tokens of parts),
            vit_{small,base,large}_patch14_{dinov2,reg4_dinov2}_reid (DINOv2's),
            resnet{50,101,152}_{reid,ibn_reid}, resnet_nano_reid, mgn_resnet{50,50_ibn,_nano} (as
            in MGN's paper), mgn_resnet{50,50_ibn,101,152,_nano}_luperson (LUPerson's MGN); or any
            other network of timm's by its name there: timm:repvit_m1_0, timm:resnet18.
        img_size: (height, width) of the input in pixels.
        drop_path: Stochastic depth of the trained network; 0 for ResNets.
        weights: Initial weights, in any format that transreid_ssl.models.load_weights knows.
        stride: Pixels between patches; less than the patch size makes them overlap (12 for 16). Of
            a ResNet 32, or 16 as is usual for fine-tuning.
        gem: Feature = class token + generalised mean of the patch tokens; a ResNet's generalised
            mean instead of its mean.
        position_resampling: How a ViT's position embeddings are resampled for small crops:
            "antialias" (bicubic after a low-pass filter), "dino" (bicubic without one, by a scale
            factor 0.1 patches too large: DINO's and TransReID-SSL's) or "bilinear".
        interpolation: How images are resized where features are taken, "linear" or "cubic"
            (bicubic, as Pillow's); the weights carry it along.
        camera_embedding: Learn an embedding for each camera of the labelled set (SIE).
        camera_weight: What it is multiplied by before it is added to every token.
        jpm: Look at shuffled quarters of the patches beside the whole (TransReID's jigsaw patch
            module), which makes the feature five times as long; for supervised fine-tuning.
        registers: Tokens beside a ViT's class token that stand for nothing and are left behind at
            the end, where it may put what it finds about the whole image instead of into patches;
            their paper takes 4 (2309.16588, section 2.2).
        token_norm: "instance" normalises a ViT's patch tokens over their image, value by value,
            after the stem, against what a camera does to all of them alike. Instance norms for
            unseen cameras are IBN-Net's (1807.09441, section 3.1); their place on tokens is ours.
        gradient_checkpointing: Less memory for about a third more time.
    """

    name: str = "vit_small_patch16_ics"
    img_size: tuple[int, int] = (256, 128)
    drop_path: float = 0.1
    weights: str | None = None
    stride: int | None = None
    gem: bool = False
    position_resampling: Literal["antialias", "dino", "bilinear"] = "antialias"
    interpolation: Literal["linear", "cubic"] = "linear"
    camera_embedding: bool = False
    camera_weight: float = 3.0
    jpm: bool = False
    registers: int = 0
    token_norm: Literal["none", "instance"] = "none"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self, img_size=(1, None), drop_path=(0, 0.99), stride=(1, None),
            camera_weight=(0, None), registers=(0, 64),
        )  # fmt: skip


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser and its schedules; the defaults are DINO's (2104.14294), as TransReID-SSL's.

    Args:
        name: "adamw" for transformers; "sgd" or "lars" (large batches) for ResNets; "adam".
        lr: Peak learning rate for ``lr_batch`` images; scaled linearly with the batch size.
        lr_batch: Batch size that ``lr`` is meant for; null takes ``lr`` as it is.
        schedule: After the warm-up a "cosine", a "plateau" until ``plateau_epochs`` and then a
            cosine, or "step": times ``step_factor`` every ``step_epochs``.
        by_epoch: The rate changes from epoch to epoch only, as TransReID-SSL fine-tunes; else it
            changes with every step.
        whole_cosine: The schedule "cosine" counts the epochs of the warm-up too, so that it begins
            below the peak (MoBY). A rate that changes ``by_epoch`` always counts them.
        warmup_epochs: Epochs of linear warm-up.
        warmup_start: Share of the peak that the warm-up begins with.
        min_lr: Learning rate at the end of a cosine.
        end: The same as a share of the peak; the larger of the two counts.
        plateau_epochs: The epoch at which the cosine of a plateau begins.
        step_epochs: Epochs between two steps.
        step_factor: What a step multiplies the learning rate by.
        weight_decay: At the start; biases and norms have none.
        weight_decay_end: At the end of its cosine; null keeps it as it is.
        decay_all: Biases and norms decay like weights; with lars they never do, nor does it scale
            their steps.
        bias_lr_scale: The peak of the biases' rate is so many times as high; where a warm-up begins
            and a cosine ends is the same for all, as TransReID-SSL fine-tunes.
        layer_decay: Each block of a network learns so many times as fast as the one after it.
        clip: Largest gradient norm; 0 leaves gradients alone. Too large lets early steps blow up.
        clip_per_parameter: Clip every parameter by itself (as DINO does) instead of all together.
        betas: The two momenta of AdamW and Adam.
        momentum: Of SGD and LARS.
    """

    name: Literal["adamw", "sgd", "adam", "lars"] = "adamw"
    lr: float = 5e-4
    lr_batch: int | None = 256
    schedule: Literal["cosine", "step", "plateau"] = "cosine"
    by_epoch: bool = False
    whole_cosine: bool = False
    warmup_epochs: float = 10
    warmup_start: float = 0.0
    min_lr: float = 1e-6
    end: float = 0.0
    plateau_epochs: float = 30
    step_epochs: int = 20
    step_factor: float = 0.1
    weight_decay: float = 0.04
    weight_decay_end: float | None = 0.4
    decay_all: bool = False
    bias_lr_scale: float = 1.0
    layer_decay: float = 1.0
    clip: float = 3.0
    clip_per_parameter: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9

    def __post_init__(self) -> None:
        before_cosine = self.warmup_epochs if self.schedule == "plateau" else 0
        check_ranges(
            self, lr=(1e-12, None), lr_batch=(1, None), warmup_epochs=(0, None),
            warmup_start=(0, 1), min_lr=(0, None), end=(0, 1),
            plateau_epochs=(before_cosine, None), step_epochs=(1, None), step_factor=(0, 1),
            weight_decay=(0, None), weight_decay_end=(0, None), bias_lr_scale=(1e-3, None),
            layer_decay=(1e-3, 1), clip=(0, None), betas=(0, 0.999999), momentum=(0, 0.999999),
        )  # fmt: skip

    def lowest(self, peak: float) -> float:
        """The learning rate at the end of a cosine from ``peak``."""
        return max(self.min_lr, self.end * peak)


AUTO_PROBE = "auto"
"""What is probed where nobody said: what the tracks of the pool are sure of, if it knows any."""


@dataclass(frozen=True)
class ProbeSettings:
    """Direct retrieval on a labelled set while the training goes on: collapse shows early.

    Args:
        data: "market1501", "msmt17", "folder" or "demo"; "tracks" for pairs that the tracks of an
            unlabelled pool are sure of (see ``python -m transreid_ssl.verdict``); "auto", of
            pre-training, these of its own pool if that knows tracks, else none; null leaves the
            probe out.
        root: Its folder, or the pool of tracks.
        pattern: Of the set "folder": where a path says the identity and the camera.
        every: Steps between probes; there is always one before the first step and one at the end.
        batch_size: Images at once.
        max_query: Use at most so many query images (a seeded choice).
        num_workers: Processes that read its images.
    """

    data: str | None = None
    root: str | None = None
    pattern: str = DEFAULT_PATTERN
    every: int = 5000
    batch_size: int = 256
    num_workers: int = 0
    max_query: int | None = None

    def __post_init__(self) -> None:
        check_ranges(
            self, every=(0, None), batch_size=(1, None), num_workers=(0, None), max_query=(1, None)
        )
