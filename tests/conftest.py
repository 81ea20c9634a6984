"""Two hypothesis profiles, one thread a worker, and the fixture that says what a law is put to."""

import functools
import importlib
import os
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

HERE = Path(__file__).parent

settings.register_profile("minivid", max_examples=50, deadline=None, derandomize=True, database=None, print_blob=False)
# For the step that checks signatures: a wrong shape in a signature shows on the first inputs already.
settings.register_profile("shapes", settings.get_profile("minivid"), max_examples=10)
settings.load_profile("minivid")

# Several workers share the machine: one thread each is faster than all threads each.
torch.set_num_threads(1)
# So does torch's compiler: without this it starts processes of its own beside every worker.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


@pytest.fixture(scope="module")
def impl(request):
    """The implementation that a law judges: the module with the same place and name as the test file.

    `tests/layers/test_attention.py` judges `minivid.layers.attention`. The classroom passes a student's answer instead.
    """
    path = request.path.relative_to(HERE).with_suffix("")
    return importlib.import_module(".".join(["minivid", *path.parts[:-1], path.name.removeprefix("test_")]))


def pytest_addoption(parser):
    parser.addoption("--machine-code", action="store_true", help="torch.compile makes machine code in every test of it")


@pytest.fixture
def compiled(request):
    """`torch.compile` into one graph, and one of its gradients; with `--machine-code` into what these become as well.

    Machine code takes the compiler minutes on a new machine, and is its own work: here one test has it made always.
    """
    backend = "inductor" if request.config.getoption("--machine-code") else "aot_eager"
    return functools.partial(torch.compile, fullgraph=True, backend=backend)


@pytest.fixture(autouse=True)
def seeded():
    """The same first weights in whatever order the tests run."""
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch):
    """No shape checker (one step of the suite switches it on): it would refuse a wrong call before minivid does."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
