"""Which device to compute on."""

from __future__ import annotations

import re

import torch

from recsys_models.errors import DataError


def resolve_device(name: str = "auto") -> torch.device:
    """``"auto"``, ``"cpu"`` or ``"cuda[:n]"`` to a device that exists.

    Args:
        name: ``"auto"`` takes the first CUDA device if there is one, else the CPU.

    Raises:
        DataError: for any other name, or a CUDA device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", name)
    if match is None:
        raise DataError(f"unknown device {name!r}; use 'auto', 'cpu', 'cuda' or 'cuda:<number>'")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match.group(1) or 0) >= available:
        raise DataError(f"device {name!r} is not here ({available} CUDA devices found); use 'auto' or 'cpu'")
    return torch.device(name)
