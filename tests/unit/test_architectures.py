"""GPU architectures: what the user may say, what it means, and what is refused with a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.errors import ConstraintError, HostError, UsageError
from mmstack.model import Architecture, CudaRelease, CudaSupport, Gpu
from mmstack.toolchains.architectures import check_words, choose, cmake_words, parse_architecture, runs


def architectures(*words: str) -> tuple[Architecture, ...]:
    """Return what these words mean."""
    return tuple(map(parse_architecture, words))


def release(version: str, *words: str) -> CudaRelease:
    """Return a CUDA version that compiles for these."""
    return CudaRelease(
        version=version,
        gcc="<14",
        clang="<18",
        driver=">=1",
        architectures=architectures(*words),
        wheels=(),
        manifest=None,
        components=(),
        file=Path(f"toolkits/{version}.toml"),
    )


OLD = release("12.4", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "9.0a")
NEW = release("12.8", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "9.0a", "10.0", "12.0")
NEWEST = release("13.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
WHEEL = CudaSupport(version="12.8", architectures=architectures("7.5", "8.0", "8.6", "9.0", "12.0"))


def chosen(
    *words: str, toolkit: CudaRelease = NEW, supports: tuple[CudaSupport, ...] = (WHEEL,), gpus: tuple[str, ...] = ()
) -> list[str]:
    """Return what is compiled for where the user says this."""
    found = choose(
        words,
        default=architectures("8.0", "9.0"),
        release=toolkit,
        releases=(OLD, NEW, NEWEST),
        offered={"12.8"},
        supports={f"base {number}": support for number, support in enumerate(supports)},
        gpus=[Gpu(name="card", capability=capability, driver="580") for capability in gpus],
    )
    return [str(item) for item in found]


def test_a_list_is_sorted_and_each_named_once() -> None:
    """PTX that was asked for once is there, however often the architecture is named."""
    assert chosen("12.0+PTX", "9.0", "12.0", "9.0a") == ["9.0", "9.0a", "12.0+PTX"]


def test_the_stack_says_where_the_user_does_not() -> None:
    """Without words, the stack's own list counts."""
    assert chosen() == ["8.0", "9.0"]


def test_all_is_what_the_compiler_and_the_layers_below_know() -> None:
    """8.9 runs code for 8.6; 10.0 has none in the wheel; 7.0 is older than all that it has; the newest gets PTX."""
    assert chosen("all") == ["7.5", "8.0", "8.6", "8.9", "9.0", "12.0+PTX"]
    assert chosen("all", supports=()) == ["7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]


def test_all_major_is_the_lowest_of_each_generation() -> None:
    """As nvcc's own `-arch=all-major`."""
    assert chosen("all-major") == ["7.5", "8.0", "9.0", "12.0+PTX"]


def test_native_is_what_is_visible() -> None:
    """Each visible GPU counts once; where there is none, nothing is guessed."""
    assert chosen("native", gpus=("9.0", "9.0", "8.6")) == ["8.6", "9.0"]
    with pytest.raises(HostError, match="none is visible"):
        chosen("native")


def test_too_new_for_the_compiler() -> None:
    """The error names the CUDA that would do, the one that is there, and what it can do."""
    with pytest.raises(ConstraintError) as caught:
        chosen("12.0", toolkit=OLD)
    assert "sm_120 needs CUDA 12.8 or newer; yours is 12.4" in caught.value.why
    assert "8.9" in caught.value.fix
    assert "take CUDA 12.8" in caught.value.fix


def test_no_cuda_is_named_that_no_stack_is_for() -> None:
    """It would lead to another error."""
    with pytest.raises(ConstraintError) as caught:
        chosen("9.0a", toolkit=NEWEST)
    assert "needs CUDA 12.4 to 12.8" in caught.value.why
    assert "take CUDA 12.8" in caught.value.fix


def test_too_old_for_the_compiler() -> None:
    """An architecture that newer compilers dropped names the last that has it."""
    with pytest.raises(ConstraintError, match=r"cannot compile for 7\.0") as caught:
        chosen("7.0", toolkit=NEWEST, supports=())
    assert "sm_70 needs CUDA 12.4 to 12.8" in caught.value.why


def test_known_to_no_compiler() -> None:
    """A capability that no CUDA knows is said to be one."""
    with pytest.raises(ConstraintError) as caught:
        chosen("99.0")
    assert "no known CUDA compiles for sm_990" in caught.value.why


def test_a_prebuilt_layer_without_code_for_it() -> None:
    """Ops for a GPU on which the layer below cannot run are of no use."""
    with pytest.raises(ConstraintError, match=r"base 0 does not run on a GPU of capability 10\.0") as caught:
        chosen("10.0")
    assert "7.5, 8.0, 8.6, 9.0, 12.0" in caught.value.why


@pytest.mark.parametrize("word", ["banana", "9", "9.0.0", "sm_90", "9.0+ptx", "-1.0", "\u0669.\u0660", "9.0\n", ""])
def test_what_is_no_architecture(word: str) -> None:
    """The error shows how one is written."""
    with pytest.raises(UsageError, match="no GPU architecture") as caught:
        check_words([word])
    assert "9.0,12.0+PTX" in caught.value.fix


@pytest.mark.parametrize(
    ("code", "gpu", "expected"),
    [
        ("8.0", "8.9", True),
        ("8.9", "8.0", False),
        ("8.0", "9.0", False),
        ("8.0+PTX", "12.0", True),
        ("9.0+PTX", "8.0", False),
        ("9.0a", "9.0", True),
        ("9.0a", "9.1", False),
        ("9.0a+PTX", "10.0", False),
    ],
)
def test_where_code_runs(code: str, gpu: str, expected: bool) -> None:  # noqa: FBT001 - the table's column
    """Machine code within its generation, PTX on all that is newer, a feature set on its own GPU alone."""
    assert runs(architectures(code), parse_architecture(gpu)) is expected


def test_as_cmake_spells_it() -> None:
    """Machine code is `real`, PTX `virtual`."""
    assert cmake_words(architectures("9.0a", "12.0+PTX")) == "90a-real;120-real;120-virtual"


@given(
    st.builds(
        Architecture,
        major=st.integers(1, 999),
        minor=st.integers(0, 9),
        feature=st.sampled_from(["", "a", "f"]),
        ptx=st.booleans(),
    )
)
def test_what_is_written_is_read_back(item: Architecture) -> None:
    """An architecture's own spelling means that architecture."""
    assert parse_architecture(str(item)) == item


@given(st.text(max_size=12))
def test_any_text_is_an_architecture_or_refused(text: str) -> None:
    """No text ends in anything but an architecture or a ValueError."""
    try:
        found = parse_architecture(text)
    except ValueError:
        return
    assert parse_architecture(str(found)) == found
