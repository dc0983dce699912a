"""NVIDIA's compute-sanitizer over the checks of ops that have a kernel for CUDA alone; not run without tool and GPU.

This has not yet been run on a GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checks import on_gpu

if TYPE_CHECKING:
    import torch

SUITE = Path(__file__).parent
FOUND = 99  # the status by which the tool says that it found something, and also that it could not begin
LIMIT = 900  # seconds
UNABLE = re.compile(r"Device not supported|Failed to initialize")


def sanitizer() -> str | None:
    """The tool on PATH or in the toolkit that CUDA_HOME names, if any."""
    home = Path(os.environ.get("CUDA_HOME", os.devnull))
    places = [os.environ.get("PATH", ""), str(home / "bin"), str(home / "compute-sanitizer")]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


@on_gpu
def test_memcheck(device: torch.device) -> None:
    """No kernel reaches beyond its tensors, each in memory of its own; float32 alone, for it is slow.

    The inner run has the files named here alone, and so not this one.
    """
    tool = sanitizer()
    if tool is None:
        pytest.skip("not run: no compute-sanitizer on PATH or in CUDA_HOME")
    apart = Path(tool).parents[1] / "lib" / "nvidia-cuda-toolkit" / "compute-sanitizer"  # as Debian has it
    injection = ["--injection-path", str(apart)] if apart.is_dir() else []
    root, files = SUITE.parents[1], sorted(map(str, SUITE.glob("test_cuda_*.py")))
    words = ["-m", "pytest", "-p", "no:cacheprovider", "-q", f"--rootdir={root}", f"--confcutdir={root}"]
    isolated = ["-P"] if sys.version_info >= (3, 11) else []
    with subprocess.Popen(  # noqa: S603  # the tool that was found, over this suite
        [
            *(tool, *injection, "--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", str(FOUND)),
            *(sys.executable, *isolated, *words, "-k", "not float16 and not float64", *files),
        ],
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            text, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the suite too, which the tool has started
            pytest.skip(f"not run: {tool} was not done after {LIMIT} seconds")
    status = process.returncode
    if status and (unable := UNABLE.search(text)):  # an older tool than the GPU, or none for this kind of machine
        pytest.skip(f"not run: {tool}: {unable[0]}")
    assert status == 0, f"compute-sanitizer on {device} ended with {status}:\n{text[-4000:]}"
    for said in (" passed", "ERROR SUMMARY: 0 errors"):
        assert said in text, f"nothing ran under compute-sanitizer on {device}:\n{text[-4000:]}"
