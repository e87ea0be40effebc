import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data sets that GLORO_FAST_DATA names."""
    folder = os.environ.get("GLORO_FAST_DATA")
    if not folder:
        pytest.skip("needs real data: set GLORO_FAST_DATA to a folder with mnist/MNIST/raw")
    return Path(folder)
