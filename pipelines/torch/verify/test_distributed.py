"""The parts of torch.distributed that the layers above import and use in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not distributed.is_available(), reason="not run: PyTorch was built without torch.distributed"
)


@pytest.fixture
def _group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A gloo group of this process alone, on the loopback interface."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("_group")
def test_collectives_of_one_process() -> None:
    """Reducing, gathering and broadcasting among one leave the values as they are."""
    value = torch.arange(6.0)
    for operation in (distributed.ReduceOp.SUM, distributed.ReduceOp.MAX):
        reduced = value.clone()
        distributed.all_reduce(reduced, op=operation)
        assert torch.equal(reduced, value)
    gathered = [torch.empty(6)]
    distributed.all_gather(gathered, value)
    assert torch.equal(gathered[0], value)


@pytest.mark.usefixtures("_group")
def test_parallel_wrapper_trains_like_the_model_itself() -> None:
    """The gradients of a wrapped model equal those of the bare one."""
    bare = torch.nn.Linear(4, 2)
    wrapped = torch.nn.parallel.DistributedDataParallel(bare)
    data = torch.randn(5, 4)
    wrapped(data).square().sum().backward()
    found = bare.weight.grad
    (expected,) = torch.autograd.grad(bare(data).square().sum(), bare.weight)
    assert found is not None
    assert torch.equal(found, expected)
