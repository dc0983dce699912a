"""The compiled layer."""

from miniext._ext import scale, total

__all__ = ["scale", "total"]
