"""The one training loop, its settings, schedules, run folder, checkpoints and probe."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["parse_config", "provenance", "to_yaml"],
        "health": ["CollapseWatch", "feature_spread"],
        "loop": ["Trainer"],
        "objective": ["Objective"],
        "optim": ["build_optimizer", "clip_gradients", "ema_update", "parameter_groups"],
        "plan": ["Plan", "make_plan"],
        "probe": ["RetrievalProbe", "TrackProbe", "retrieval_probe"],
        "run": ["train"],
        "runfolder": ["RunFolder"],
        "schedules": ["cosine", "linear", "warmup_cosine"],
        "settings": [
            "BackboneSettings",
            "OptimizerSettings",
            "PoolSettings",
            "ProbeSettings",
            "RunSettings",
        ],
        "start": ["build_backbone_to_train", "finish", "start", "training_pool"],
        "threads": ["num_cores", "share_cores"],
    },
)
