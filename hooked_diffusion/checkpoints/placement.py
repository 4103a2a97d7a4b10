"""Which device each weight goes to, and the hooks that bring weights and activations together there.

A device map names modules and their devices, as accelerate writes them: `{"model.embed_tokens": 0, "model.layers.0": "cpu", …}`. "cpu" and
"disk" are devices too. Instead of a dictionary it may be "auto", "balanced", "balanced_low_0" or "sequential": then free memory decides.

Weights on disk are not copied. They are read from the checkpoint's own safetensors files each time their module runs. A module runs on its
own device. A module that is kept on "cpu" or "disk" runs on the first other device of the map, or on the CPU where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import check_device_map, get_balanced_memory, get_max_memory
from torch import nn
from transformers import PreTrainedModel

from hooked_diffusion.checkpoints.boundary import quoted, reading
from hooked_diffusion.checkpoints.fields import shown

Device = int | str | torch.device
DeviceMap = str | Mapping[str, Device]
INFERRED = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Placement:
    """Where the weights of a model go: `modules` has module name → device. The name "" stands for the whole model."""

    modules: Mapping[str, Device]

    @classmethod
    def of(cls, device: str | torch.device | None) -> Placement:
        """Everything on one device; None is the CPU. Raises ValueError on what is no device, or not here."""
        return cls({"": _present("cpu" if device is None else device, "device")})

    @classmethod
    def from_map(cls, device_map: DeviceMap, model: PreTrainedModel, dtype: torch.dtype) -> Placement:
        """A device map, checked against a model that may be without weights.

        Raises ValueError when the map is no map, or leaves out a weight.
        """
        if isinstance(device_map, str) and device_map not in INFERRED:
            return cls({"": _present(device_map, "device_map", f"{', '.join(INFERRED)}, a device, or a dictionary of modules")})
        module = cast(nn.Module, model)
        if not isinstance(device_map, str):
            for name, device in device_map.items():
                if device != "disk":
                    _present(device, f"device_map[{name!r}]")
            with reading("device_map does not fit the model", "name a device for every module, by the names of its state dict"):
                check_device_map(module, dict(device_map))
            return cls(dict(device_map))
        # Layers whose parts must share a device, since a residual connection joins them.
        undivided = list(model._no_split_modules or ())
        if device_map == "sequential":
            memory = get_max_memory()
        else:
            low_zero = device_map == "balanced_low_0"
            memory = get_balanced_memory(module, no_split_module_classes=undivided, dtype=dtype, low_zero=low_zero)
        return cls(infer_auto_device_map(module, max_memory=memory, no_split_module_classes=undivided, dtype=dtype))

    def __getitem__(self, name: str) -> Device:
        """The device of a weight: the one of the longest module name that it begins with."""
        # With the point: "layers.1" does not own "layers.10".
        owners = [module for module in self.modules if not module or name == module or name.startswith(f"{module}.")]
        return self.modules[max(owners, key=len)]

    @property
    def whole(self) -> torch.device | None:
        """The one device that everything is on; None where there are several, or a disk."""
        devices = {str(device) for device in self.modules.values()}
        return torch.device(next(iter(self.modules.values()))) if len(devices) == 1 and "disk" not in devices else None

    def tied(self, first: str, second: str) -> Placement:
        """The same placement with two tied weights on one device: that of `first`, or that of `second` where `first` is on disk."""
        if self[first] == self[second]:
            return self
        device = self[second] if self[first] == "disk" else self[first]
        # The map names modules: the weight's name without its last part.
        return Placement({**self.modules, **{name.rpartition(".")[0]: device for name in (first, second)}})

    def dispatch(self, model: PreTrainedModel, on_disk: Mapping[str, tuple[Path, str]], dtype: torch.dtype) -> None:
        """Attach the hooks that run each module on its device; `on_disk` has the file and key of every weight that stays there."""
        index = {
            name: {"safetensors_file": str(path), "weight_name": key, "dtype": str(dtype).removeprefix("torch.")}
            for name, (path, key) in on_disk.items()
        }
        # accelerate annotates these two otherwise than it reads them; it compares the main device with the text "cpu".
        main, offloaded = cast(torch.device, main_device(self.modules)), cast(dict[str, str], index)
        dispatch_model(cast(nn.Module, model), dict(self.modules), main_device=main, offload_index=offloaded or None)


def _present(device: Device, name: str, wanted: str = "cpu, cuda, cuda:N or mps, where it is here") -> torch.device:
    """A device that is here. Raises ValueError naming the argument, its value, and what is here."""
    here = f"here there are cpu and {torch.cuda.device_count()} of cuda"
    try:
        found = torch.device(device)
        if found.type != "meta":  # it has no data
            # A device can have a name and not be here; only an allocation shows it.
            torch.empty(1, device=found)
            return found
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # torch has no one class for it: RuntimeError, AssertionError, TypeError, NotImplementedError
        raise ValueError(f"{name} is {shown(device)}; say {wanted}; {here} ({quoted(error)})") from error
    raise ValueError(f"{name} is {shown(device)}, which holds no numbers; say {wanted}; {here}")


def main_device(modules: Mapping[str, Device]) -> Device:
    """Where a module that a device map keeps on "cpu" or "disk" runs: on the map's first other device, or on the CPU."""
    return next((device for device in modules.values() if device not in ("cpu", "disk")), "cpu")
