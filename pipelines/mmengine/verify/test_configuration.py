"""Configurations inherit, survive being written and read; registries build what they name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from mmengine import Config, fileio
from mmengine.registry import DefaultScope, Registry

if TYPE_CHECKING:
    from pathlib import Path

BASE = """
depth = 50
model = dict(type='Net', head=dict(type='A', classes=10), neck=dict(type='N', width=3))
hooks = [dict(type='first'), dict(type='second')]
"""
CHILD = """
_base_ = ['base.py']
model = dict(head=dict(classes=20), neck=dict(_delete_=True, type='M'))
layers = {{_base_.depth}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration that inherits from another one."""
    (tmp_path / "base.py").write_text(BASE, encoding="utf-8")
    (tmp_path / "child.py").write_text(CHILD, encoding="utf-8")
    return Config.fromfile(tmp_path / "child.py")


def test_inheritance(config: Config) -> None:
    """Values merge, `_delete_` replaces, base variables are in reach."""
    assert config.to_dict() == {
        "depth": 50,
        "layers": 50,
        "model": {"type": "Net", "head": {"type": "A", "classes": 20}, "neck": {"type": "M"}},
        "hooks": [{"type": "first"}, {"type": "second"}],
    }


@pytest.mark.parametrize("suffix", ["py", "json", "yaml"])
def test_writing_and_reading(config: Config, tmp_path: Path, suffix: str) -> None:
    """What is dumped is the same configuration again; Python is formatted by yapf on the way."""
    config.dump(tmp_path / f"copy.{suffix}")
    assert Config.fromfile(tmp_path / f"copy.{suffix}").to_dict() == config.to_dict()


def test_command_line_options(config: Config) -> None:
    """Dotted options reach into dictionaries and lists."""
    config.merge_from_dict({"model.head.classes": 7, "hooks.1.type": "third"})
    assert config.model.head.classes == 7
    assert [hook.type for hook in config.hooks] == ["first", "third"]


def test_files_come_back(tmp_path: Path) -> None:
    """What `fileio` dumps it loads, in each of its formats."""
    content = {"numbers": [1, 2.5], "text": "ä"}
    for suffix in ("json", "yaml", "pkl"):
        fileio.dump(content, tmp_path / f"content.{suffix}")
        assert fileio.load(tmp_path / f"content.{suffix}") == content


def test_registry_builds_through_scopes() -> None:
    """A child registry is searched first, then its parent; a prefix names the scope; an unknown name is an error."""
    parent = Registry("thing", scope="verify_parent")
    child = Registry("thing", parent=parent, scope="verify_child")
    parent.register_module(name="Pair", module=complex)
    child.register_module(name="Pair", module=tuple)
    parent.register_module(name="Only", module=list)
    with DefaultScope.overwrite_default_scope("verify_child"):
        assert child.build({"type": "verify_parent.Pair", "real": 1, "imag": 2}) == 1 + 2j
        assert child.build({"type": "Pair"}) == ()
        assert child.build({"type": "Only"}) == []
        with pytest.raises(KeyError, match="Nothing is not in the"):
            child.build({"type": "Nothing"})
