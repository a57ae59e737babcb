from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.privacy.user_gradients.encoders import DIM


@pytest.fixture
def table() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(12, DIM)


@pytest.fixture
def item_ids() -> Tensor:
    """Nine users with eight slots; repeated items within a user, shared items between users, empty slots."""
    ids = torch.randint(0, 12, (9, 8), generator=torch.Generator().manual_seed(1))
    ids[0] = torch.tensor([3, 3, 3, 3, 3, 5, 5, 5])
    ids[1, 5:] = -1
    return ids
