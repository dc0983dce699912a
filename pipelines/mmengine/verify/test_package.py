"""The installed MMEngine is the one of the stack, says what it needs, and works without retired modules."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

import mmengine
import pytest
import torch
from mmengine.utils import get_installed_path, is_installed
from mmengine.utils.dl_utils import collect_env

if TYPE_CHECKING:
    from conftest import Facts


@pytest.fixture
def _no_retired_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what newer setuptools (pkg_resources) and newer Pythons (distutils) no longer have."""
    for name in ("pkg_resources", "distutils", "distutils.errors"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution `thing-for-verify` whose only module is `thing`."""
    metadata = tmp_path / "thing_for_verify-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: thing-for-verify\nVersion: 1.0\n", encoding="utf-8"
    )
    (metadata / "top_level.txt").write_text("thing\n", encoding="utf-8")
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing/__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def test_version_is_the_one_of_the_stack(facts: Facts) -> None:
    """Module and metadata agree with the stack."""
    assert mmengine.__version__ == version("mmengine") == facts.layers["mmengine"]


def test_metadata_names_the_requirements() -> None:
    """The source distribution lacks its requirement files; the wheel must name the requirements all the same."""
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in requires("mmengine") or []}
    assert {"addict", "matplotlib", "numpy", "pyyaml", "rich", "termcolor", "yapf"} <= names
    assert len([name for name in names if name.startswith("opencv")]) == 1


@pytest.mark.usefixtures("_no_retired_modules", "distribution")
def test_installed_packages_are_found() -> None:
    """By the name of the distribution or of the module; what is not there is not found."""
    assert is_installed("mmengine")
    assert is_installed("thing-for-verify")
    assert is_installed("thing")
    assert not is_installed("no-such-thing-for-verify")


@pytest.mark.usefixtures("_no_retired_modules")
def test_installed_paths_are_found(distribution: Path) -> None:
    """Also where module and distribution have different names; what is not there is an error."""
    assert Path(get_installed_path("mmengine")).samefile(Path(mmengine.__file__).parent)
    assert Path(get_installed_path("thing-for-verify")) == distribution / "thing"
    with pytest.raises(PackageNotFoundError):
        get_installed_path("no-such-thing-for-verify")


@pytest.mark.usefixtures("_no_retired_modules")
def test_environment_is_collected() -> None:
    """The report that heads every training log names the versions that run."""
    report = collect_env()
    assert report["PyTorch"] == torch.__version__
    assert report["MMEngine"].startswith(mmengine.__version__)
    assert report["CUDA available"] == torch.cuda.is_available()
    assert {"GCC", "OpenCV", "PyTorch compiling details"} <= report.keys()
