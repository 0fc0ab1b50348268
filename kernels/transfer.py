"""Copies from the host to a GPU that nobody waits for."""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device. The host goes on before a GPU has its copy: it leaves from memory
    that stays where it is."""
    if tensor.is_cuda or torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
