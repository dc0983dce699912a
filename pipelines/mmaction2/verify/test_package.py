"""The installed MMAction2 is the one of the stack, whole, and everything that it registers can be imported."""

from __future__ import annotations

import pkgutil
import re
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import requires, version
from typing import TYPE_CHECKING, Any

import mmaction
import mmaction.registry
import pytest
import torch
from mmaction.models import DRN
from mmaction.registry import DATASETS, METRICS, MODELS, TRANSFORMS
from mmaction.utils import register_all_modules
from mmaction.utils.dependency import require
from mmengine import Config, Registry
from tsn_checkpoint import CONFIGURATIONS

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Facts

# Projects that MMAction2 uses where they are installed; this stack has none of them.
OPTIONAL = {"clip", "mmdet", "mmpretrain", "pytorchvideo", "torchvision", "transformers"}
PARTS = {
    "apis": ("init_recognizer", "inference_recognizer", "inference_skeleton", "MMAction2Inferencer"),
    "datasets": ("VideoDataset", "RawframeDataset", "PoseDataset", "AVADataset"),
    "engine": ("LearningRateDecayOptimizerConstructor", "OutputHook"),
    "evaluation": ("AccMetric", "AVAMetric", "ConfusionMatrix", "top_k_accuracy"),
    "models": ("Recognizer2D", "Recognizer3D", "RecognizerGCN", "TSNHead", "BMN", "DRN"),
    "structures": ("ActionDataSample",),
    "visualization": ("ActionVisualizer", "LocalVisBackend"),
}
# What a constructor computes with numbers cannot be built without memory; the suite runs small ones of these for real.
COMPUTING = {"mvit", "swin", "tanet", "uniformer", "uniformerv2", "videomae", "videomaev2"}
# Detection needs mmdet, and models of video and language need transformers; DRN is not in the source distribution.
FAMILIES = [
    folder
    for kind in ("localization", "recognition", "recognition_audio", "skeleton")
    for folder in sorted((CONFIGURATIONS / kind).iterdir())
    if folder.is_dir() and folder.name not in {"drn", *COMPUTING}
]


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    """Fill the registries."""
    register_all_modules(init_default_scope=True)


def registered() -> list[tuple[str, Any]]:
    """Everything in MMAction2's own registries, by name."""
    registries = [value for value in vars(mmaction.registry).values() if isinstance(value, Registry)]
    own = {id(each): each for each in registries if each.scope == "mmaction"}
    return [item for registry in own.values() for item in registry.module_dict.items()]


def missing_for(module: str) -> str | None:
    """Import a module; return the name of a project that is not there for it."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        return error.name
    return None


def test_version_is_the_one_of_the_stack(facts: Facts) -> None:
    """Module and metadata agree with the stack, whose MMCV it accepts."""
    assert mmaction.__version__ == version("mmaction2") == facts.layers["mmaction2"]


def test_metadata_names_the_requirements() -> None:
    """The source distribution lacks its requirement files; the wheel must name the requirements all the same."""
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in requires("mmaction2") or []}
    assert {"decord", "einops", "matplotlib", "numpy", "pillow", "scipy", "torch"} <= names


@pytest.mark.parametrize("name", PARTS)
def test_part_imports(name: str) -> None:
    """Each part of the public interface imports and offers what users build on."""
    part = import_module(f"mmaction.{name}")
    assert [export for export in PARTS[name] if not hasattr(part, export)] == []


def test_every_module_imports() -> None:
    """No module of the package fails, but for those whose subject is an optional project."""
    modules = pkgutil.walk_packages(mmaction.__path__, "mmaction.", onerror=lambda _name: None)
    missing = {module.name: missing_for(module.name) for module in modules}
    assert {name: why for name, why in missing.items() if why and why not in OPTIONAL} == {}


def test_every_registered_class_imports() -> None:
    """What the registries hold stands under its name in its module; placeholders say which extra they need."""
    assert {"DRN", "BMN", "TSNHead", "ResNet", "STGCN"} <= MODELS.module_dict.keys()
    assert len(MODELS.module_dict) + len(TRANSFORMS.module_dict) + len(DATASETS.module_dict) > 120
    for name, item in registered():
        found = getattr(import_module(item.__module__), item.__name__, None)
        if found is None:
            with pytest.raises(ImportError, match="requires extra multi-modal dependencies"):
                item()
        else:
            assert found is item, name


def test_drn_is_registered() -> None:
    """The localizer that the source distribution forgot has its name, whichever source the wheel was built from."""
    assert MODELS.get("DRN") is DRN


@pytest.mark.parametrize("family", FAMILIES, ids=lambda folder: folder.name)
def test_configuration_builds(family: Path) -> None:
    """The first configuration of each family builds: its model, its test pipeline and its metrics.

    The model takes no memory where PyTorch can build one so, from 2.0 on.
    """
    config = Config.fromfile(min(family.glob("*.py")))
    meta = torch.device("meta")
    with meta if hasattr(meta, "__enter__") else nullcontext():
        assert list(MODELS.build(config.model).parameters())
    for step in config.test_dataloader.dataset.pipeline:
        TRANSFORMS.build(step)
    evaluators = config.test_evaluator if isinstance(config.test_evaluator, list) else [config.test_evaluator]
    for evaluator in evaluators:
        METRICS.build(evaluator)


def test_optional_requirements_are_checked() -> None:
    """A class whose requirement is there stays; one whose requirement is not says what to install."""

    def thing() -> str:
        return "made"

    assert require("numpy>=1.20")(thing)() == "made"
    with pytest.raises(ImportError, match="no-such-thing"):
        require("no-such-thing>=1.0")(thing)()
    with pytest.raises(ImportError, match="numpy>=1000"):
        require("numpy>=1000")(thing)()
