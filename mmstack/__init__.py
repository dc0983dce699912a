"""The engine: plans, builds, checks and installs stacks of Python layers compiled from source.

It knows the shape of a stack and nothing of any particular one: layers are folders in
`pipelines/`, combinations are files in `stacks/`.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
