from ctypes import CDLL, c_double
from pathlib import Path

import minilib


def test_area() -> None:
    """It computes what the flag chose."""
    library = CDLL(str(Path(minilib.__file__).parent / "lib" / "libarea.so"))
    library.area.restype = c_double
    assert library.area(c_double(2.0)) == 12.0
