"""What timm's own programs are told of a network: how to make its images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from transreid_ssl.models.load_report import LoadReport
from transreid_ssl.models.spec import BackboneSpec


class TimmConfig:
    """A network whose ``pretrained_cfg`` always says what its ``spec`` says.

    So ``timm.data.create_transform(**timm.data.resolve_model_data_config(model))`` squeezes images
    to its size, crops nothing and normalises with its statistics.
    """

    spec: BackboneSpec
    load_report: LoadReport
    """What became of the weights, where ``load_backbone`` built the network."""
    save_pretrained: ClassVar[Callable[..., Path]]
    push_to_hub: ClassVar[Callable[..., str]]
    from_pretrained: ClassVar[Callable[..., Any]]
    _given: dict[str, Any] | None = None

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        given = {key: value for key, value in (self._given or {}).items() if key not in _OF_A_SIZE}
        return {
            **given,
            "architecture": self.spec.name,
            "input_size": (3, *self.spec.img_size),
            "mean": self.spec.mean,
            "std": self.spec.std,
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "interpolation": {"linear": "bilinear", "cubic": "bicubic"}[self.spec.interpolation],
        }

    @pretrained_cfg.setter
    def pretrained_cfg(self, given: dict[str, Any]) -> None:
        self._given = given

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's older name for the same."""
        return self.pretrained_cfg

    @default_cfg.setter
    def default_cfg(self, given: dict[str, Any]) -> None:
        self._given = given


_OF_A_SIZE = (
    "test_input_size", "min_input_size", "fixed_input_size", "test_crop_pct", "pool_size",
    "test_pool_size",
)  # fmt: skip
"""What others recommend for tests, or found at another size: every size is taken here."""
