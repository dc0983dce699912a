"""Says what the minibase of the Python that runs this file is."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

import minibase

distribution = importlib.metadata.distribution("minibase")
print(  # noqa: T201 - what this program is for
    json.dumps(
        {
            "version": distribution.version,
            "cuda": "12.8",
            "architectures": ["8.0", "9.0+PTX"],
            "digest": hashlib.sha256((distribution.read_text("RECORD") or "").encode()).hexdigest(),
            "folders": [str(Path(minibase.__file__).parents[1])],
        }
    )
)
