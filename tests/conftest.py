import gc
import getpass
import os
import signal
import tempfile
from collections import Counter
from pathlib import Path

import pytest

# Until all tests are collected nothing is garbage, and looking for it took 3.5 of 9 s.
gc.disable()

import torch  # noqa: E402

# PyTorch 2.13 finds a graph of Inductor's whatever it was vectorized for: what was made for AVX2 does not compile under
# ATEN_CPU_CAPABILITY=default, where at::vec is not declared. So each has a cache; torch sets the variable when used.
if _CAPABILITY := os.environ.get("ATEN_CPU_CAPABILITY"):
    _CACHE = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_{_CAPABILITY}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_CACHE))
# Else Inductor starts processes, which take longer than the graphs of the tests.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# Few tests, but long ones.
LONG = (
    "graph/test_random_modules.py", "kernels/test_power_iteration_planted.py", "kernels/test_sanitized.py",
    "distributed/test_torchrun.py", "distributed/test_shared_evaluation.py", "graph/test_fuzz.py",
    "net/test_compile.py", "benchmarks/test_step_process.py", "test_build.py", "export/test_certified_export.py",
    "kernels/test_power_iteration_sanitized.py", "cli/test_reproduce_command.py",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the longest files first: at the end, when no file is left, one of them would be waited for alone.

    With ``--no-loadscope-reorder``: pytest-xdist itself puts the files with most tests first.
    """
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (not str(item.path).endswith(LONG), -tests[item.path]))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Leave what was imported, 700,000 objects, out of garbage collections, and make these less frequent.

    Tracing and capturing make millions of objects that are no garbage: full collections took another 7 % of the time.
    """
    result = yield
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()
    return result


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The tensors are small: on a busy machine threads would spend most of the time waiting for one another.

    What must give the same bits at any number of threads asks for them.
    """
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _signals_arrive():
    """A parent that ignores SIGINT (nohup, a shell's background job) hands that down, here and to child processes."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data sets that GLORO_FAST_DATA names."""
    folder = os.environ.get("GLORO_FAST_DATA")
    if not folder:
        pytest.skip("needs real data: set GLORO_FAST_DATA to a folder with mnist/MNIST/raw")
    return Path(folder)
