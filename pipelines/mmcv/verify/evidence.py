"""A plugin of pytest for checks on a GPU: what they claim to check is called, timed and recorded.

The record goes into JUnit's properties of each check: the compiled functions (op), the types that they were given
(dtype), the largest absolute difference from the float64 reference (max_error), and how long all their calls took, from
an idle device to an idle device (seconds); the first call of a kernel includes loading it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import checks
import mmcv._ext
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Watch:
    """Calls a compiled function, and remembers for how long and with which types.

    Attributes:
        seconds: How long the calls took so far; 0 before the first one.
        dtypes: Types of the floating-point tensors that were given.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0
        self.dtypes: set[str] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever the function takes and gives
        """Call the function, with the device idle before and after."""
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        self.dtypes |= {str(each.dtype).removeprefix("torch.") for each in given if each.is_floating_point()}
        torch.cuda.synchronize()
        start = time.perf_counter()
        try:
            result = self._function(*args, **kwargs)
            torch.cuda.synchronize()
        finally:  # a call that is refused is a call
            self.seconds += time.perf_counter() - start
        return result


def runs_on_gpu(check: pytest.Function) -> bool:
    """Say whether a check was parametrized with a GPU by the `device` fixture."""
    callspec = getattr(check, "callspec", None)
    return callspec is not None and callspec.params.get("device") == "cuda"


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Watch the functions that the `kernels` mark of a check on a GPU names, fail if one was not called, and record."""
    names = sorted({name for mark in pyfuncitem.iter_markers("kernels") for name in mark.args})
    if not names or not runs_on_gpu(pyfuncitem):
        return (yield)
    checks.errors.clear()
    with pytest.MonkeyPatch.context() as patch:
        watches = {name: Watch(getattr(mmcv._ext, name)) for name in names}  # noqa: SLF001  # the thing under test
        for name, watch in watches.items():
            patch.setattr(mmcv._ext, name, watch)  # noqa: SLF001
        result = yield
    idle = [name for name, watch in watches.items() if not watch.seconds]
    assert not idle, f"the check claims functions that it never called: {', '.join(idle)}"
    dtypes = set[str]().union(*(watch.dtypes for watch in watches.values()))
    pyfuncitem.user_properties += [
        ("op", ", ".join(names)),
        ("dtype", ", ".join(sorted(dtypes))),
        ("max_error", f"{max(checks.errors, default=0.0):.3g}"),
        ("seconds", f"{sum(watch.seconds for watch in watches.values()):.6f}"),
    ]
    return result
