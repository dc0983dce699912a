from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmstack.diagnose import first_error, plain

NINJA = """\
$ python -m build
[1/3] /usr/bin/c++ -MMD -DNAME=_ext -c /src/a.cpp -o a.o
/src/a.cpp:3:7: warning: unused variable 'error: not one' [-Wunused-variable]
    3 |   int error;
[2/3] /usr/bin/c++ -MMD -DNAME=_ext -c /src/b.cpp -o b.o
FAILED: [code=1] b.o
/usr/bin/c++ -MMD -DNAME=_ext -c /src/b.cpp -o b.o
/src/b.cpp: In function 'int f()':
/src/b.cpp:12:5: error: 'nosuch' was not declared in this scope
   12 |     nosuch();
/src/b.cpp:14:5: error: expected ';'
ninja: build stopped: subcommand failed.
Traceback (most recent call last):
  File "setup.py", line 9, in run
    build()
RuntimeError: Error compiling objects for extension
error: subprocess-exited-with-error
"""
NVCC = """\
/usr/local/cuda/bin/nvcc -I/include -c /src/k.cu -o k.o
/src/k.cu(42): error: identifier "__shfl" is undefined

1 error detected in the compilation of "/src/k.cu".
error: command '/usr/local/cuda/bin/nvcc' failed with exit code 2
"""
LINKER = """\
: && /usr/bin/g++ -shared a.o -o libx.so && :
/usr/bin/ld: a.o: in function `main':
a.cpp:(.text+0x5): undefined reference to `nosuch()'
collect2: error: ld returned 1 exit status
"""
PIP = """\
Looking in indexes: https://example.org/simple
  error: subprocess-exited-with-error
  x Getting requirements to build wheel did not run successfully.
      Traceback (most recent call last):
        File "<string>", line 1, in <module>
          import nosuch
      ModuleNotFoundError: No module named 'nosuch'
      [end of output]
ERROR: Failed to build 'mmx' when getting requirements to build wheel
"""
CMAKE = """\
-- The CXX compiler identification is GNU 12.2.0
CMake Error at cmake/Deps.cmake:7 (find_package):
  By not providing "FindNosuch.cmake" in CMAKE_MODULE_PATH this project has
  asked CMake to find a package configuration file.
-- Configuring incomplete, errors occurred!
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param(
            NINJA,
            "/usr/bin/c++ -MMD -DNAME=_ext -c /src/b.cpp -o b.o\n"
            "/src/b.cpp:12:5: error: 'nosuch' was not declared in this scope",
            id="ninja's failed edge, not the warning before it nor the traceback after it",
        ),
        pytest.param(
            NVCC,
            "/usr/local/cuda/bin/nvcc -I/include -c /src/k.cu -o k.o\n"
            '/src/k.cu(42): error: identifier "__shfl" is undefined',
            id="nvcc",
        ),
        pytest.param(
            LINKER,
            ": && /usr/bin/g++ -shared a.o -o libx.so && :\na.cpp:(.text+0x5): undefined reference to `nosuch()'",
            id="linker",
        ),
        pytest.param(PIP, "ModuleNotFoundError: No module named 'nosuch'", id="the indented traceback in pip's output"),
        pytest.param(
            CMAKE,
            "CMake Error at cmake/Deps.cmake:7 (find_package):\n"
            'By not providing "FindNosuch.cmake" in CMAKE_MODULE_PATH this project has',
            id="cmake, with what it says",
        ),
        pytest.param(
            "gcc -c a.c -o a.o\na.c:1:10: fatal error: nosuch.h: No such file or directory\n",
            "gcc -c a.c -o a.o\na.c:1:10: fatal error: nosuch.h: No such file or directory",
            id="missing header",
        ),
        pytest.param("a.o: No space left on device\n", "a.o: No space left on device", id="disk full"),
        pytest.param("/bin/sh: line 1:  4242 Killed  cc1plus\n", "/bin/sh: line 1:  4242 Killed  cc1plus", id="killed"),
        pytest.param(
            "nvcc fatal   : Unsupported gpu architecture 'compute_30'\n",
            "nvcc fatal   : Unsupported gpu architecture 'compute_30'",
            id="unknown architecture",
        ),
        pytest.param("FAILED: x.o\nodd-tool --in x\n", "odd-tool --in x\nFAILED: x.o", id="a silent failure"),
        pytest.param("ERROR: No matching distribution\n", "ERROR: No matching distribution", id="only pip's summary"),
        pytest.param("all is well\n0 errors\n", "", id="none"),
    ],
)
def test_the_first_real_error_is_found(log: str, expected: str) -> None:
    """Compiler errors count before what the tools above the compiler say of them."""
    assert first_error(log.splitlines()) == expected


def test_only_the_last_command_of_a_log_is_judged() -> None:
    """A log that is appended to keeps the errors of earlier runs, which are not today's."""
    log = ["$ make", "a.c:1:1: error: yesterday's", "$ make", "a.c:2:2: error: today's"]
    assert first_error(log) == "make\na.c:2:2: error: today's"
    assert first_error([*log, "$ make"]) == ""


def test_colours_of_a_compiler_do_not_hide_its_error() -> None:
    """A compiler that was told to always use colour is understood all the same."""
    line = "\x1b[01m\x1b[Ka.c:1:1:\x1b[m\x1b[K \x1b[01;31m\x1b[Kerror: \x1b[m\x1b[Kno"
    assert first_error([line]) == "a.c:1:1: error: no"


@given(st.text())
def test_plain_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    """Of the control characters only tab and newline are left, and cleaning twice changes nothing."""
    shown = plain(f"\x1b]0;title\x07{text}\x1b[31m")
    assert not any(ord(char) < 32 and char not in "\t\n" for char in shown)
    assert plain(shown) == shown


@given(st.lists(st.one_of(st.text(), st.sampled_from((NINJA + NVCC + LINKER + PIP + CMAKE).splitlines()))))
def test_any_output_can_be_searched(lines: list[str]) -> None:
    """The search never fails, and says nothing that was not in what it read."""
    read = "\n".join(plain(line) for line in lines)
    assert all(part in read for part in first_error(lines).split("\n"))


def test_a_hostile_line_costs_no_more_than_its_length() -> None:
    """Lines made to send a pattern back and forth are read in a moment."""
    began = time.monotonic()
    first_error([word * 50_000 for word in ("cc ", ":12: ", "(1): error ", "\x1b]", "nvcc ", "/", "error")])
    assert time.monotonic() - began < 5
