from __future__ import annotations

import pytest
import torch

from recsys_models.devices import resolve_device
from recsys_models.errors import DataError


def test_cpu_and_auto() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU", "", "mps", "cuda:0 "])
def test_unknown_names_say_what_is_known(name: str) -> None:
    with pytest.raises(DataError, match="use 'auto', 'cpu', 'cuda' or 'cuda:<number>'"):
        resolve_device(name)


def test_absent_device_says_how_many_there_are() -> None:
    with pytest.raises(DataError, match=r"'cuda:900' is not here \(\d+ CUDA devices found\)"):
        resolve_device("cuda:900")


@pytest.mark.gpu
def test_cuda_is_found() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
