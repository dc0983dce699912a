"""The training loop: it learns, saves, resumes where it stopped, and wraps optimizers as it says.

It runs on the device that MMEngine itself picks: the GPU where one is visible.
"""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from tiny_training import Plane, Points, PowerCut, PowerCutError, runner
from torch.nn import functional

if TYPE_CHECKING:
    from pathlib import Path


def batch() -> dict[str, torch.Tensor]:
    """All points at once."""
    data = Points()
    return {"inputs": torch.from_numpy(data.inputs), "targets": torch.from_numpy(data.targets)}


def test_training_learns_the_plane(tmp_path: Path) -> None:
    """Twenty epochs at a constant rate find the weights that made the data, up to its noise of 0.1."""
    trained = runner(tmp_path, name="learns", epochs=20, param_scheduler=None).train()
    torch.testing.assert_close(trained.linear.weight.cpu(), torch.tensor([[1.0, -2.0, 3.0]]), rtol=0, atol=0.1)


def cut_short(folder: Path, name: str) -> None:
    """Start a training of four epochs that ends after the second one."""
    with pytest.raises(PowerCutError):
        runner(folder, name=name, epochs=4, custom_hooks=[PowerCut(2)]).train()


def test_resumed_training_equals_training_at_one_go(tmp_path: Path) -> None:
    """A training that is cut off after two of four epochs and resumed ends in the same bits as one that is not.

    Model, momentum, learning rate, epoch and the order of the data all come from the checkpoint, which holds
    MMEngine's own classes: PyTorch's default loader refuses such a file.
    """
    whole = runner(tmp_path / "whole", name="whole", epochs=4).train()
    cut_short(tmp_path / "parts", "first part")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "parts/epoch_2.pth", weights_only=True)
    second = runner(tmp_path / "parts", name="second part", epochs=4, resume=True)
    resumed = second.train()
    assert second.iter == 20
    assert torch.equal(resumed.linear.weight, whole.linear.weight)
    assert torch.equal(resumed.linear.bias, whole.linear.bias)


def test_checkpoint_keeps_the_history(tmp_path: Path) -> None:
    """The message hub's scalars, one loss per iteration, survive the round trip."""
    cut_short(tmp_path, "history")
    again = runner(tmp_path, name="history again", epochs=4, resume=True)
    again.load_or_resume()
    losses = again.message_hub.get_scalar("train/loss")
    assert isinstance(losses, HistoryBuffer)
    assert len(losses.data[0]) == 10
    assert losses.data[0][-1] < losses.data[0][0]


def test_scheduler_follows_its_milestones(tmp_path: Path) -> None:
    """The rate halves after the second and the third epoch."""
    run = runner(tmp_path, name="rates", epochs=4)
    run.train()
    rates = run.message_hub.get_scalar("train/lr").data[0]
    assert rates[::5].tolist() == pytest.approx([0.05, 0.05, 0.025, 0.0125])


def test_averaging_hook(tmp_path: Path) -> None:
    """The exponential average that is saved lies where its formula says, step by step."""
    seen = []

    class Recorder(Plane):
        """The plane, noting its weights after every step."""

        def train_step(self, data: object, optim_wrapper: OptimWrapper) -> dict[str, torch.Tensor]:
            """Train as ever and take note."""
            result: dict[str, torch.Tensor] = super().train_step(data, optim_wrapper)
            seen.append(self.linear.weight.detach().clone())
            return result

    run = runner(tmp_path, name="average", epochs=1, custom_hooks=[{"type": "EMAHook", "momentum": 0.1}])
    run.model.__class__ = Recorder
    run.train()
    expected = seen[0]  # the first step starts the average
    for weight in seen[1:]:
        expected = expected + 0.1 * (weight - expected)
    # Five steps of one multiply-add in float32: 5 * 6e-8 of values about 3.
    (hook,) = (hook for hook in run.hooks if type(hook).__name__ == "EMAHook")
    torch.testing.assert_close(hook.ema_model.module.linear.weight, expected, rtol=1e-6, atol=1e-6)


def test_accumulated_gradients_equal_one_big_batch() -> None:
    """Four quarters accumulated step once, as the whole batch does; quarter means sum in another order."""
    whole, parts = Plane(), Plane()
    data = batch()
    big = OptimWrapper(torch.optim.SGD(whole.parameters(), lr=0.1))
    big.update_params(whole(**data, mode="loss")["loss"])
    small = OptimWrapper(torch.optim.SGD(parts.parameters(), lr=0.1), accumulative_counts=4)
    before = deepcopy(parts.state_dict())
    for index in range(4):
        assert torch.equal(parts.linear.weight, before["linear.weight"])
        quarter = {name: values[index * 10 : index * 10 + 10] for name, values in data.items()}
        with small.optim_context(parts):
            loss = parts(**quarter, mode="loss")["loss"]
        small.update_params(loss)
    torch.testing.assert_close(parts.linear.weight, whole.linear.weight, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped() -> None:
    """With a norm of at most 0.01 and a rate of 1, a step is 0.01 long."""
    model = Plane()
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), clip_grad={"max_norm": 0.01})
    wrapper.update_params(model(**batch(), mode="loss")["loss"])
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    # clip_grad_norm_ divides by the norm plus 1e-6
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_mixed_precision_step() -> None:
    """On a GPU, a scaled float16 step agrees with a float32 step to float16's three digits."""
    if not torch.cuda.is_available():
        pytest.skip("not run: no GPU")
    plain, mixed = Plane().cuda(), Plane().cuda()
    data = {name: values.cuda() for name, values in batch().items()}
    OptimWrapper(torch.optim.SGD(plain.parameters(), lr=0.1)).update_params(plain(**data, mode="loss")["loss"])
    wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD(mixed.parameters(), lr=0.1), loss_scale=128.0, dtype="float16")
    with wrapper.optim_context(mixed):
        found = mixed(**data)
        assert found.dtype is torch.float16
        loss = functional.mse_loss(found.float(), data["targets"])
    wrapper.update_params(loss)
    torch.testing.assert_close(mixed.linear.weight, plain.linear.weight, rtol=0, atol=5e-3)
