"""What the device can hold and has held, in bytes."""

import resource
import sys
import warnings

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel

from lorafit.model.offload import Offloading
from lorafit.plan.workspace import WORKSPACE_BYTES, workspace_bytes


def peak_memory_bytes(device: torch.device) -> int:
    """Give the most this process has held: allocated on a card, resident on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kibibytes everywhere but there


def measured_peaks(device: torch.device) -> dict[str, int]:
    """Give this process's peaks: on a card allocated, reserved, and on the card; else resident.

    What is on the card beside torch is counted as this process's context, on a shared card that of the others too.
    """
    if device.type != "cuda":
        return {"resident_bytes": peak_memory_bytes(device)}
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.max_memory_reserved(device)
    context = max(0, total - free - torch.cuda.memory_reserved(device))
    return {
        "allocated_bytes": peak_memory_bytes(device),
        "reserved_bytes": int(reserved),
        "on_card_bytes": int(reserved + context),
    }


def free_bytes(device: torch.device, processes: int) -> int:
    """Give what a process may use: what is free on its card, or its share of this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) // processes


def product_workspace_bytes(device: torch.device) -> int:
    """Give what torch takes on this device for products; of a CPU what a card takes that nothing is known of."""
    return workspace_bytes(torch.cuda.get_device_capability(device)[0]) if device.type == "cuda" else WORKSPACE_BYTES


def host_bytes(device: torch.device, processes: int) -> int:
    """Give what a process may use of this machine's memory beside its device; 0 where that is the device."""
    return 0 if device.type == "cpu" else free_bytes(torch.device("cpu"), processes)


def recompute_activations(model: PreTrainedModel, layers: int | None = None, *, offloaded: bool = False) -> None:
    """Keep only the input of the first so many layers (None: of all), and compute the rest again in the backward.

    `offloaded`: those inputs wait on the host.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # renamed in transformers 5.23; this name is in all of v5
        # reentrant recomputation gives no gradient where a layer's input is frozen
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if layers is not None:
        for layer in decoder_layers(model)[layers:]:
            layer.gradient_checkpointing = False  # type: ignore[assignment]
    if offloaded:
        away = Offloading(model.device)
        for module in model.modules():
            if hasattr(module, "_gradient_checkpointing_func"):
                module._gradient_checkpointing_func = away  # type: ignore[assignment]


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Find the stack of decoder layers: the list with the most values."""
    stacks: list[nn.ModuleList] = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    sizes = [sum(p.numel() for p in stack.parameters()) for stack in stacks]
    return list(stacks[sizes.index(max(sizes))])
