from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.errors import UsageError
from mmstack.model import Request
from mmstack.options import Options

WORDS = st.text(max_size=10)


def test_no_options_ask_for_nothing_special() -> None:
    """The default is decided elsewhere."""
    assert Options().request() == Request()
    assert Options().words() == []


def test_options_are_read_into_a_request() -> None:
    """Lists by comma or semicolon, pairs by the first equals sign."""
    options = Options(
        stack="mini",
        cuda="12.8",
        python="3.11",
        arch="9.0,12.0+PTX;8.6,",
        source=["ext=path:/a=b", "base=sdist"],
        flag=["ext.SPEED=-O2 -g", "ext.OTHER=x"],
        without=["top"],
        jobs="4",
        mirror="https://mirror.test/git",
    )
    assert options.request() == Request(
        stack="mini",
        cuda="12.8",
        python="3.11",
        arch=("9.0", "12.0+PTX", "8.6"),
        sources={"ext": "path:/a=b", "base": "sdist"},
        flags={"ext.SPEED": "-O2 -g", "ext.OTHER": "x"},
        without=("top",),
        jobs=4,
    )


def test_a_request_is_typed_again_without_its_password() -> None:
    """A mirror's address may hold one; which mirror it was does not change what is built."""
    options = Options(stack="mini", mirror="https://me:t0ken@mirror.test/git", source=["ext=git"])
    assert options.request() == Request(stack="mini", sources={"ext": "git"})
    typed = " ".join(options.words())
    assert "--mirror" in typed
    assert "mirror.test/git" in typed
    assert "t0ken" not in typed


@pytest.mark.parametrize("jobs", ["0", "-1", "banana", "1.5", "2 ", "²", "1e3"])
def test_jobs_are_a_number(jobs: str) -> None:
    """One at least."""
    with pytest.raises(UsageError, match="is no number of jobs") as caught:
        Options(jobs=jobs).request()
    assert caught.value.fix == "write e.g. `--jobs 2`"


@pytest.mark.parametrize("word", ["ext", "ext=", "=sdist", "=", ""])
@pytest.mark.parametrize("option", ["source", "flag"])
def test_a_pair_has_two_sides(option: str, word: str) -> None:
    """The error shows what was typed and an example."""
    with pytest.raises(UsageError, match=f"--{option}: '{word}' is not NAME=VALUE") as caught:
        Options(**{option: [word]}).request()  # type: ignore[arg-type]
    assert f"--{option} LAYER" in caught.value.fix


@pytest.mark.parametrize("option", ["source", "flag"])
def test_a_pair_is_given_once(option: str) -> None:
    """Of two values none is taken in silence."""
    with pytest.raises(UsageError, match=f"--{option}: 'ext' is given twice"):
        Options(**{option: ["ext=1", "ext=2"]}).request()  # type: ignore[arg-type]


@given(stack=WORDS, source=st.lists(WORDS, max_size=2), jobs=WORDS, arch=WORDS)
def test_whatever_is_typed_is_a_request_or_a_usage_error(stack: str, source: list[str], jobs: str, arch: str) -> None:
    """And a request can be typed again as it was."""
    options = Options(stack=stack, source=source, jobs=jobs, arch=arch)
    try:
        assert options.request().stack == stack
    except UsageError as error:
        assert error.fix  # noqa: PT017 - the other outcome is looked at as well
    else:
        typed = shlex.split(" ".join(options.words()))
        again = dict(zip(typed[::2], typed[1::2], strict=True)) | {"--source": source}
        assert {name: value for name, value in again.items() if value} == {
            name: value
            for name, value in {"--stack": stack, "--source": source, "--jobs": jobs, "--arch": arch}.items()
            if value
        }
