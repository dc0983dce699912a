"""Hostile input: how many cases, how each is counted, what every one of them must end in, and where cases come from.

`python -m tests.fuzz.cases FILE COMMAND` puts counts into the page.

Most start from a valid document, in which something is changed, left out, said twice or put where it does not belong;
what is random from the first byte rarely gets past the first line of a parser.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mmstack.errors import MmstackError
from tests.faults.tally import machine, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from hypothesis.strategies import DrawFn

    Test = Callable[..., None]

FEW = 15
CASES = int(os.environ.get("MMSTACK_FUZZ_CASES", "0"))  # of a parser; `nox -s fuzz` sets it
FILE = os.environ.get("MMSTACK_FUZZ_COUNTS", "")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "hostile-input.md"
SECONDS = 20.0  # of CPU time, which a busy machine does not take away
WAITING_SECONDS = 300.0
TIMERS = {
    signal.SIGPROF: (signal.ITIMER_PROF, SECONDS),
    signal.SIGALRM: (signal.ITIMER_REAL, WAITING_SECONDS),
}
MEMORY = 1 << 30
COUNTS: Counter[str] = Counter()


def fuzz(parser: str, *, share: float = 1.0, **strategies: SearchStrategy[Any]) -> Callable[[Test], Test]:
    """Return what makes a test of a parser run with many cases, each of them counted when it has ended well.

    Args:
        parser: what is tested, as the table of counts names it.
        share: how many of the cases, for what takes longer or less long than most.
        strategies: where the test's arguments come from.
    """
    many = max(FEW, round(CASES * share)) if CASES else max(5, round(min(FEW, FEW * share * 10)))
    few = {} if CASES else {"phases": (Phase.explicit, Phase.generate, Phase.shrink)}
    wanted = settings(
        max_examples=many,
        deadline=None,
        derandomize=not CASES,  # a change is not refused for what is found by chance; `nox -s fuzz` looks for that
        suppress_health_check=list(HealthCheck),
        **few,  # type: ignore[arg-type] # what is not there is as it is by default
    )

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def counted(*arguments: object, **named: object) -> None:
            with limited():
                test(*arguments, **named)
            COUNTS[parser] += 1

        quiet = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of what is long to show
        made: Test = quiet(wanted(given(**strategies)(counted)))
        return made

    return decorate


@contextmanager
def limited() -> Iterator[None]:
    """Let nothing hang, nor take memory without bound."""

    def ring(number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs: {signal.Signals(number).name} before it was done")

    before = {number: signal.signal(number, ring) for number in TIMERS}
    for timer, seconds in TIMERS.values():
        signal.setitimer(timer, seconds)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, (timer, _seconds) in TIMERS.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


@contextmanager
def refusable() -> Iterator[list[MmstackError]]:
    """Let a parser refuse what it is given, if it says what is wrong and what to do; nothing else may be raised."""
    refused: list[MmstackError] = []
    try:
        yield refused
    except MmstackError as error:
        refused.append(error)
    assert all(error.what and error.fix for error in refused), f"no remedy: {refused[0]}"


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Return all that is below a folder: what files hold, where links lead."""
    found: dict[str, bytes | str | None] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        found[name] = (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None  # noqa: PTH115
        )
    return found


def merge(files: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the counts of all workers together."""
    total: Counter[str] = Counter()
    for file in files:
        total.update(file)
    return dict(sorted(total.items()))


def write_counts(counts: Mapping[str, int], seconds: float) -> str:
    """Write the counts, where they are wanted, and return them in words."""
    if FILE:
        Path(FILE).write_text(json.dumps({"seconds": round(seconds, 1), "parsers": counts}), encoding="utf-8")
    lines = [f"{count:8}  {parser}" for parser, count in counts.items()]
    return "\n".join([*lines, f"{sum(counts.values()):8}  cases in all"])


def table(counts: Mapping[str, Any], command: str, day: str) -> str:
    """Return the table of the counts that a command wrote that day."""
    parsers = counts["parsers"]
    return "\n".join(
        [
            f"Run on {day} by `{command}` on {machine()}:",
            f"{sum(parsers.values())} cases in {counts['seconds']:.0f} seconds, each of which ended well.",
            "",
            *("| parser | cases |", "|---|---|"),
            *(f"| {parser} | {count} |" for parser, count in sorted(parsers.items())),
            "",
        ]
    )


# Words that mean something to somebody: a path, a shell, a terminal, a page, a format, a number, a parser.
WORDS = (
    "",
    " ",
    ".",
    "..",
    "/",
    "../../outside",
    "/etc/passwd",
    "a/../../b",
    "C:\\x",
    "\\\\host\\share",
    "-rf",
    "--upload-pack=touch x",
    "~",
    "~nobody/x",
    "$HOME",
    "$(touch x)",
    "`touch x`",
    ";touch x",
    "|",
    "\0",
    "a\0b",
    "\n",
    "a\nb",
    "\r\n",
    "\t",
    "\x1b[2J\x1b[31m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "\ufeff",
    "\u2028",
    "\U0001f4a9",
    "\u0130",
    "\u0661\u0662",  # digits, but not ours
    "\u00b2",
    "é" * 200,
    "a" * 300,
    "x" * 5000,
    "[" * 300,
    "(" * 300,
    "{}",
    "{0}",
    "{jobs}",
    "{version}",
    "%s%n",
    "%(here)s",
    "{{ 7*7 }}",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "&lt;",
    "0",
    "-1",
    "1e999",
    "nan",
    "inf",
    "9" * 50,
    "9" * 5000,
    "0x10",
    "1_0",
    "1.0",
    "==1.0",
    ">=1,<2",
    "1!2.0.post1.dev3+local",
    "name==1 ; python_version < '3'",
    "name @ https://h/x.whl",
    "https://user:pass@host/x",
    "http://[::1",
    "http://h:99999/",
    "file:///etc/passwd",
    "ext::sh -c touch% x",
    "git@host:a/b.git",
    "ssh://-oProxyCommand=x/y",
    "true",
    "null",
    "a=b",
    "=",
    "#",
    "[x]",
    "::error::x",
)
LONE = "\ud800"
words = st.sampled_from(WORDS)
texts = st.one_of(words, st.text(max_size=12))
numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30)]),
    st.integers(),
    st.sampled_from([0.0, -0.5, 1e308, 1.5]),
)
scalars: SearchStrategy[Any] = st.one_of(texts, numbers, st.booleans(), st.none())
values: SearchStrategy[Any] = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(texts, scalars, max_size=3),
    st.lists(st.dictionaries(texts, scalars, max_size=2), max_size=2),
)
odd_floats = st.sampled_from([float("nan"), float("inf"), float("-inf")])


@st.composite
def mutated(draw: DrawFn, valid: Any, new: SearchStrategy[Any] = values) -> Any:  # noqa: ANN401 - any document
    """Return a document with some of its parts replaced, left out, named otherwise, said twice or moved."""
    document = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        holder, place = _somewhere(draw, document)
        if holder is None:
            document = draw(new)
            continue
        what = draw(st.sampled_from(["replace", "replace", "remove", "again", "rename", "add"]))
        if isinstance(holder, dict):
            if what == "remove":
                del holder[place]
            elif what == "rename":
                holder[draw(texts)] = holder.pop(place)
            elif what == "again":
                holder[draw(texts)] = holder[place]
            else:
                holder[place if what == "replace" else draw(texts)] = draw(new)
        elif what == "remove":
            del holder[place]
        elif what in {"again", "rename"}:
            holder.append(holder[place])
        elif what == "add":
            holder.insert(place, draw(new))
        else:
            holder[place] = draw(new)
    return document


def _somewhere(draw: DrawFn, document: Any) -> tuple[Any, Any]:  # noqa: ANN401 - as above
    """Return a part of a document by what holds it and at which place."""
    holder, place, current = None, None, document
    while isinstance(current, (dict, list)) and current:
        holder = current
        place = draw(st.sampled_from(sorted(current))) if isinstance(current, dict) else _index(draw, current)
        current = holder[place]
        if draw(st.integers(0, 3)) == 0:
            break
    return holder, place


def _index(draw: DrawFn, items: Sequence[object]) -> int:
    return draw(st.integers(0, len(items) - 1))


def encoded(document: Any) -> bytes:  # noqa: ANN401 - any document
    """Return a document as a JSON file holds it."""
    return json.dumps(document).encode()


def json_bytes(valid: Any) -> SearchStrategy[bytes]:  # noqa: ANN401 - any document
    """Return a strategy of what may stand in a JSON file instead of a document; most of it is nearly that document."""
    return mostly(
        mutated(valid, st.one_of(values, odd_floats)).map(encoded),
        values.map(encoded),
        damaged(json.dumps(valid, indent=1).encode()),
        st.binary(max_size=40),
        st.sampled_from([b"", b"[" * 5000, b'{"a":' * 2000, b"\xff\xfe", b"null", b"1e400", b"9" * 5000]),
    )


def by_parts(valid: Mapping[str, Any], **parts: Any) -> SearchStrategy[bytes]:  # noqa: ANN401 - any documents
    """Return the same of a document of many parts: mostly these are changed, or drawn where a strategy is given."""

    def changed(part: str, whole: Any) -> SearchStrategy[bytes]:  # noqa: ANN401 - any document
        drawn = whole if isinstance(whole, SearchStrategy) else mutated(whole)
        return drawn.map(lambda value: encoded({**valid, part: value}))

    return mostly(st.one_of(*(changed(part, whole) for part, whole in parts.items())), json_bytes(valid))


@st.composite
def with_one_changed(draw: DrawFn, valid: Sequence[Mapping[str, Any]], *parts: str) -> Any:  # noqa: ANN401 - any documents
    """Return a list of documents; in one, one of these parts is changed."""
    documents = [dict(document) for document in valid]
    part = draw(st.sampled_from(parts))
    document = documents[_index(draw, documents)]
    document[part] = draw(mutated(document[part]))
    return documents


@st.composite
def mostly(draw: DrawFn, most: SearchStrategy[Any], *others: SearchStrategy[Any]) -> Any:  # noqa: ANN401 - whatever they give
    """Return what the first strategy gives, in two of three cases; `st.one_of` takes each of its own for one alone."""
    return draw(most) if draw(st.integers(0, 2)) else draw(st.one_of(*others))


@st.composite
def damaged(draw: DrawFn, valid: bytes) -> bytes:
    """Return bytes some of which are changed, cut out, repeated or put in."""
    body = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(body) - 1, 0)))
        what = draw(st.sampled_from(["set", "set", "cut", "put", "twice", "end"]))
        if what == "set" and body:
            body[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, ord("-"), ord("9"), ord("\n")]))
        elif what == "cut":
            del body[at : at + draw(st.integers(1, 40))]
        elif what == "put":
            body[at:at] = draw(st.one_of(st.binary(max_size=8), words.map(_utf8)))
        elif what == "twice":
            body[at:at] = body[at : at + draw(st.integers(1, 200))]
        elif what == "end":
            del body[at:]
    return bytes(body)


@st.composite
def edited(draw: DrawFn, valid: str) -> str:
    """Return a text some of whose lines are changed, left out, repeated, exchanged or new."""
    lines = valid.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(lines) - 1, 0)))
        what = draw(st.sampled_from(["word", "word", "remove", "again", "swap", "new", "replace"]))
        if not lines or what == "new":
            lines.insert(at, draw(texts) + draw(st.sampled_from(["\n", "", "\r\n"])))
        elif what == "remove":
            del lines[at]
        elif what == "again":
            lines.insert(at, lines[at])
        elif what == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
        elif what == "replace":
            lines[at] = draw(texts) + "\n"
        else:
            lines[at] = _with_word(draw, lines[at])
    return "".join(lines)


def _with_word(draw: DrawFn, line: str) -> str:
    begin = draw(st.integers(0, len(line)))
    end = draw(st.integers(begin, min(len(line), begin + 12)))
    return line[:begin] + draw(texts) + line[end:]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


if __name__ == "__main__":
    today = datetime.now(timezone.utc).date().isoformat()
    put(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2], today), PAGE)
