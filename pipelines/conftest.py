"""What every layer's verification suite shares: the facts of the stack, the device, the seeds, and no network."""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import random
import socket
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the stack promises about itself; a suite checks the installed layers against it.

    Attributes:
        stack: Name of the stack.
        layer: The layer under test.
        version: The version that the layer must have.
        cuda: CUDA version of the stack, such as "12.8", or "cpu".
        toolkit: The CUDA toolkit that layers were compiled with: version, kind, origin, architectures; or None.
        python: Version of the interpreter that the stack was built for.
        layers: Version of every layer of the stack, by layer.
        expect: What else the stack file says to expect.
        options: What the user gave to the verification, such as a checkpoint; empty strings where nothing was given.
    """

    stack: str
    layer: str
    version: str
    cuda: str
    toolkit: dict[str, Any] | None
    python: str
    layers: dict[str, str]
    expect: dict[str, str]
    options: dict[str, str]


@pytest.fixture(scope="session")
def facts() -> Facts:
    """The facts in the JSON file that MMSTACK_FACTS names."""
    try:
        path = os.environ["MMSTACK_FACTS"]
    except KeyError:
        raise pytest.UsageError("MMSTACK_FACTS must name the JSON file with the facts of the stack") from None
    return Facts(**json.loads(Path(path).read_text(encoding="utf-8")))


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device to verify on; CUDA counts as not run where PyTorch sees no GPU."""
    import torch  # noqa: PLC0415  # not every stack has it

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("not run: no GPU")
    if request.param == "cuda":
        try:
            torch.cuda.manual_seed(torch.initial_seed())
            torch.cuda.synchronize()
        except RuntimeError as error:  # after an access out of bounds no later call succeeds in this process
            if not request.session.testsfailed:  # nobody has been told yet that the GPU does not work
                raise
            pytest.skip(f"not run: an earlier check has left the GPU in error: {str(error).splitlines()[0]}")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seeds(request: pytest.FixtureRequest) -> None:
    """Give each test its own fixed seed, whatever runs before it."""
    seed = zlib.crc32(request.node.name.encode())
    random.seed(seed)
    if "torch" in sys.modules:  # which libtorch is built without
        sys.modules["torch"].default_generator.manual_seed(seed)  # a GPU in error shall not fail checks on the CPU
    if "numpy" in sys.modules:  # which torch works without
        sys.modules["numpy"].random.seed(seed)


def _is_local(address: object) -> bool:
    """Say whether a socket address stays on this machine: a path, or a loopback address."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse Python's connections to other machines: a result must not depend on what can be reached."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    lookup = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:  # noqa: ANN401  # as the standard library has it
        if not _is_local(address):
            raise ConnectionRefusedError(f"verification runs without network; refused to connect to {address!r}")
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:  # noqa: ANN401  # the same
        return connect_ex(self, address) if _is_local(address) else errno.ECONNREFUSED

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if host is not None and not _is_local((host,)):
            raise socket.gaierror(socket.EAI_FAIL, f"verification runs without network; refused to look up {host!r}")
        return lookup(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_lookup)
        yield
