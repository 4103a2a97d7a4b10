"""Which device each weight goes to, and the hooks that bring weights and activations together there.

A device map names modules and their devices, as accelerate writes them: `{"model.embed_tokens": 0, "model.layers.0": "cpu", …}`, "cpu" and
"disk" included, or is "auto", "balanced", "balanced_low_0" or "sequential": inferred from free memory. Weights on disk are not copied
anywhere: they are read from the checkpoint's own safetensors files each time their module runs. Modules run on their own device, those
kept on "cpu" or "disk" on the map's first other device, or on the CPU where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import check_device_map, get_balanced_memory, get_max_memory
from torch import nn
from transformers import PreTrainedModel

DeviceMap = str | Mapping[str, int | str | torch.device]
INFERRED = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Placement:
    """Where the weights of a model go: `modules` (name → device, "" for all of it)."""

    modules: Mapping[str, Any]

    @classmethod
    def of(cls, device: str | torch.device | None) -> Placement:
        """Everything on one device; None is the CPU."""
        return cls({"": torch.device(device or "cpu")})

    @classmethod
    def from_map(cls, device_map: DeviceMap, model: PreTrainedModel, dtype: torch.dtype) -> Placement:
        """A device map checked against a model whose weights need not be there. ValueError when it leaves one out, or is no map."""
        if isinstance(device_map, str) and device_map not in INFERRED:
            try:
                return cls.of(device_map)
            except RuntimeError as error:
                message = f"device_map is {device_map!r}; say {', '.join(INFERRED)}, a device, or a dictionary of modules"
                raise ValueError(message) from error
        if not isinstance(device_map, str):
            check_device_map(cast(nn.Module, model), dict(device_map))
            return cls(dict(device_map))
        whole: dict[str, Any] = {"no_split_module_classes": list(model._no_split_modules or ()), "dtype": dtype}
        if device_map == "sequential":
            memory = get_max_memory()
        else:
            memory = get_balanced_memory(cast(nn.Module, model), low_zero=device_map == "balanced_low_0", **whole)
        return cls(infer_auto_device_map(cast(nn.Module, model), max_memory=memory, **whole))

    def __getitem__(self, name: str) -> Any:
        """The device of a weight: that of the longest module name that it begins with."""
        owners = [module for module in self.modules if not module or name == module or name.startswith(f"{module}.")]
        return self.modules[max(owners, key=len)]

    @property
    def whole(self) -> torch.device | None:
        """The one device that everything is on, None where there are several or a disk."""
        devices = {str(device) for device in self.modules.values()}
        return torch.device(next(iter(self.modules.values()))) if len(devices) == 1 and "disk" not in devices else None

    def tied(self, first: str, second: str) -> Placement:
        """The same with two weights that are one where `first` is, or where `second` is if only that is in memory."""
        if self[first] == self[second]:
            return self
        device = self[second] if self[first] == "disk" else self[first]
        return Placement({**self.modules, **{name.rpartition(".")[0]: device for name in (first, second)}})

    def dispatch(self, model: PreTrainedModel, on_disk: Mapping[str, tuple[Path, str]], dtype: torch.dtype) -> None:
        """Attach the hooks that run each module on its device; `on_disk` has the file and key of every weight that stays there."""
        index: dict[str, Any] = {
            name: {"safetensors_file": str(path), "weight_name": key, "dtype": str(dtype).removeprefix("torch.")}
            for name, (path, key) in on_disk.items()
        }
        dispatch_model(cast(nn.Module, model), dict(self.modules), main_device=main_device(self.modules), offload_index=index or None)


def main_device(modules: Mapping[str, Any]) -> Any:
    """Where what a device map keeps on "cpu" or "disk" runs: its first other device, or else "cpu"."""
    return next((device for device in modules.values() if device not in ("cpu", "disk")), "cpu")
