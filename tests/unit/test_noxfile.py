"""What the test bench starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

import noxfile

if TYPE_CHECKING:
    from pathlib import Path

    import nox


class Session:
    """A session that starts nothing, and notes what it was to start."""

    def __init__(self, place: Path, *posargs: str) -> None:
        self.place, self.posargs, self.ran = place, list(posargs), list[tuple[str, ...]]()

    def create_tmp(self) -> str:
        """Return a folder."""
        return str(self.place)

    def run(self, *words: str, external: bool) -> None:
        """Note a command."""
        assert external
        self.ran.append(words)


@pytest.mark.parametrize(
    ("posargs", "stack", "options"),
    [
        ((), "cpu", ()),
        (("cuda",), "cu130", ("--cuda", "13.0", "--index-only", "--arch", "9.0")),
        (("cuda", "native"), "cu130", ("--cuda", "13.0", "--index-only", "--arch", "native")),
    ],
)
def test_both_builds_are_compared_for_the_gpu_that_is_named(
    posargs: tuple[str, ...], stack: str, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU runs no code for another: its results can be compared only of what was compiled for it."""
    wheels = tmp_path / "dist" / stack / "wheels"
    wheels.mkdir(parents=True)
    (wheels / "mmcv-1-any.whl").touch()
    monkeypatch.chdir(tmp_path)
    session = Session(tmp_path, *posargs)
    noxfile.compare(cast("nox.Session", session))
    builds = [words for words in session.ran if words[:2] == ("invoke", "build-stack")]
    assert builds == [
        ("invoke", "build-stack", *options, "--flag", "mmcv.BUILD=upstream"),
        ("invoke", "build-stack", *options),
    ]
    assert [words[2] for words in session.ran if words[0] == "python"] == (
        ["benchmarks.machine_code"] if options else []
    )
