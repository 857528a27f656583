"""What the tests of all operators share."""

import pytest
import torch


@pytest.fixture
def poisoned():
    """New memory is NaN until it is written (torch.utils.deterministic.fill_uninitialized_memory)."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
