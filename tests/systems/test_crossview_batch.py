"""A mismatch needs another pair in the batch."""

from __future__ import annotations

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.systems.crossview.losses import rolled


def test_a_batch_of_one_pair_is_refused() -> None:
    with pytest.raises(ConfigError, match="no mismatch"):
        rolled(torch.randn(1, 4))
