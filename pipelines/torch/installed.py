"""Says what the PyTorch of the Python that runs this file is, as one JSON document on standard output."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import sys
import warnings
from pathlib import Path


def main() -> None:
    """Print version, CUDA version, architectures, a digest of the installed files, and the folders to import from."""
    warnings.simplefilter("ignore")  # a driver that is too old says so here, and again where it matters
    import torch  # noqa: PLC0415 - after the filter

    distribution = importlib.metadata.distribution("torch")
    # RECORD lists every file with its digest; a distribution's package has none, but its build is named here
    record = distribution.read_text("RECORD") or f"{torch.__version__} {torch.version.git_version} {torch.__file__}"
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: "")() or ""  # noqa: SLF001 - there is no public name for it
    found = re.findall(r"\b(sm|compute)_(\d+)(\d)([a-z]?)", flags)
    # a base version, as a release is named: what follows `+` tells builds apart, and the digest does that
    print(  # noqa: T201 - what this program is for
        json.dumps(
            {
                "version": torch.__version__.split("+")[0],
                "cuda": torch.version.cuda or "",
                "architectures": [f"{a}.{b}{c}" + ("+PTX" if kind == "compute" else "") for kind, a, b, c in found],
                "digest": hashlib.sha256(record.encode()).hexdigest(),
                "folders": [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}],
            }
        )
    )


main()
