"""The test bench: the sessions that `nox --list` shows, each in an environment that uv makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests", "lint", "typecheck"]
nox.options.error_on_external_run = True

CUDA = ("--cuda", "13.0", "--index-only", "--arch", "9.0")
SOURCES = ("mmstack", "benchmarks", "pipelines", "tests", "tasks.py", "noxfile.py")


def sync(session: nox.Session, *groups: str) -> None:
    """Install the project's own pins and these dependency groups into the session's environment."""
    words = [word for group in groups for word in ("--group", group)]
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        "--inexact",
        *words,
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
    )


@nox.session
def tests(session: nox.Session) -> None:
    """Run the fast tests: `nox -s tests -- -k word` for some of them."""
    sync(session, "test")
    session.run("pytest", "-n", "auto", "-m", "not slow", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Give the parsers hostile input, over 100,000 cases in all, and count that in the docs."""
    sync(session, "test")
    counts = str(Path(session.create_tmp(), "counts.json"))
    env = {"MMSTACK_FUZZ_CASES": "2000", "MMSTACK_FUZZ_COUNTS": counts}
    session.run("pytest", "-n", "auto", "tests/fuzz", *session.posargs, env=env)
    if not session.posargs:
        session.run("python", "-m", "tests.fuzz.cases", counts, "uv run nox -s fuzz")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, workflows and locks; change nothing."""
    sync(session, "lint")
    session.run("ruff", "check", *SOURCES)
    session.run("ruff", "format", "--check", *SOURCES)
    session.run("zizmor", "--offline", "--quiet", ".github/workflows")
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows())
    session.run("invoke", "lock", "--check")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check the types, strictly."""
    sync(session, "types", "test")
    session.run("mypy")


@nox.session(venv_backend="none")
def e2e(session: nox.Session) -> None:
    """Prove the patches, build the real `cpu` stack and verify it; what is there already is not built again."""
    session.run("invoke", "patches.check", external=True)
    session.run("invoke", "build-stack", *session.posargs, external=True)


@nox.session(venv_backend="none")
def compare(session: nox.Session) -> None:
    """Demand that upstream's build of mmcv's ops and ours pass the same suite, export the same and compute the same.

    `nox -s compare -- cuda` for the ops of CUDA: their kernels' machine code, and results on a GPU where there is one;
    `-- cuda native` compiles them for that GPU.
    """
    architecture = session.posargs[1:] or CUDA[-1:]
    stack, options = ("cu130", (*CUDA[:-1], *architecture)) if "cuda" in session.posargs else ("cpu", ())
    wheels = Path("dist", stack, "wheels")
    session.run("invoke", "build-stack", *options, "--flag", "mmcv.BUILD=upstream", external=True)
    (upstream,) = (shutil.copy2(wheel, session.create_tmp()) for wheel in wheels.glob("mmcv-*.whl"))
    session.run("invoke", "build-stack", *options, external=True)
    (ours,) = wheels.glob("mmcv-*.whl")
    session.run(f"dist/{stack}/env/bin/python", "pipelines/two_builds.py", upstream, str(ours), external=True)
    if options:
        session.run("python", "-m", "benchmarks.machine_code", upstream, str(ours), external=True)


@nox.session(venv_backend="none")
def cuda(session: nox.Session) -> None:
    """Compile mmcv's CUDA ops with a toolkit of wheels, for one architecture, and read their machine code back."""
    session.run("invoke", "build-stack", *CUDA, "--stop-after", "gate", external=True)


@nox.session(venv_backend="none")
def torch(session: nox.Session) -> None:
    """Fetch, patch and configure PyTorch as Debian 12 has it, on Debian 12; compiling it takes an hour more."""
    session.run("invoke", "build-stack", "--stack", "debian12", "--stop-after", "configure", external=True)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill, starve and deceive miniature builds, and count that in the docs; `-- --real` kills mmcv's build."""
    sync(session, "test")
    folder = session.create_tmp()
    for file in Path(folder).glob("*.json"):  # of an earlier run
        file.unlink()
    words = ("pytest", "tests/faults", *(word for word in session.posargs if word != "--real"))
    if "--real" in session.posargs:
        session.run(*words, "-n", "0", "-m", "real", env={"MMSTACK_FAULTS": folder})
    else:
        session.run(*words, "-n", "auto", "-m", "slow and not real", env={"MMSTACK_FAULTS": folder})
        if not session.posargs:
            session.run("python", "-m", "tests.faults.tally", folder, "uv run nox -s faults")


@nox.session
def distribute(session: nox.Session) -> None:
    """Compile on three machines, made of network namespaces; needs root and icecc, or is not run."""
    sync(session, "test")
    files = ("tests/integration/test_distribution.py", "tests/integration/test_sources.py")
    session.run("pytest", "-n", "0", "-rsP", "-m", "slow", *files, *session.posargs)


@nox.session
def caches(session: nox.Session) -> None:
    """Demand that a second machine gets mmcv's ops from the first one's compiler cache, through a Redis; needs root."""
    sync(session, "test")
    session.run("invoke", "fetch", "--stack", "cpu", "--compiler-cache", "sccache", external=True)
    session.run("pytest", "-m", "slow", "-n", "0", "tests/integration/test_shared_cache.py", *session.posargs)


@nox.session
def memory(session: nox.Session) -> None:
    """Compile mmcv's CUDA ops where no more than 4 GB of memory may be used; needs root."""
    sync(session, "test")
    session.run("invoke", "build-stack", *CUDA, "--stop-after", "fetch", external=True)
    session.run("pytest", "-m", "slow", "-n", "0", "tests/integration/test_memory.py", *session.posargs)


@nox.session
def machine(session: nox.Session) -> None:
    """Try what this machine has of its own: an archive of packages by apt, a CUDA toolkit; or say that it has none."""
    sync(session, "test")
    files = ("tests/integration/test_distro.py", "tests/unit/test_system_toolkit.py")
    session.run("pytest", "-m", "slow", "-n", "0", "-rs", *files, *session.posargs)


@nox.session
def reproduce(session: nox.Session) -> None:
    """Build again under all that must not matter, compare every bit: `nox -s reproduce -- -k debian12` for torch."""
    sync(session, "test")
    only = session.posargs or ["-k", "not debian12"]
    session.run("pytest", "-m", "slow", "-n", "0", "tests/integration/test_reproduce.py", *only)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure upstream's way and ours in turn, and write docs/benchmarks.md: `nox -s bench -- cpu` for some of it."""
    session.run("python", "-m", "benchmarks.builds", *session.posargs, external=True)


@nox.session(venv_backend="none")
def verify(session: nox.Session) -> None:
    """Install the wheels of `dist/` into fresh environments and prove each layer."""
    session.run("invoke", "verify", *session.posargs, external=True)


def workflows() -> list[str]:
    """Return the workflow files."""
    return sorted(str(path) for path in Path(".github/workflows").glob("*.yml"))
