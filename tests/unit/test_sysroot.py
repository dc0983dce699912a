"""Build roots of a distribution's packages, honest and hostile ones."""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from mmstack import run
from mmstack.errors import ArchiveError, CatalogError, DiskError, InterruptedRunError
from mmstack.toolchains import sysroot

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")

Member = tuple[str, "bytes | str | None"]  # a name and: contents, a link's target, or None for a folder
HERE = "x86_64-linux-gnu"


def _ar(path: Path, *members: tuple[str, bytes]) -> Path:
    parts = [b"!<arch>\n"]
    for name, body in members:
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode())
        parts.append(body + b"\n" * (len(body) % 2))
    path.write_bytes(b"".join(parts))
    return path


def _tar(*members: tarfile.TarInfo | Member) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, what = member
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if what is None or name.startswith("./usr/bin/") else 0o644
            content = what if isinstance(what, bytes) else b""
            info.size = len(content)
            if what is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(what, str):
                info.type, info.linkname = tarfile.SYMTYPE, what
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _deb(path: Path, *members: tarfile.TarInfo | Member) -> Path:
    control = _tar(("./control", b"Package: demo\nVersion: 1\nArchitecture: all\n"))
    data = lzma.compress(_tar(*members))
    return _ar(path, ("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar.xz", data))


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A build root of a library, its headers and a program."""
    headers: list[Member] = [
        ("./", None),
        ("./usr/", None),
        (f"./usr/include/{HERE}/blas/cblas.h", b"int blas;"),
        ("./usr/include/demo.h", b"int demo;"),
        (f"./usr/lib/{HERE}/libdemo.so", f"/lib/{HERE}/libdemo.so.1"),
        (f"./usr/lib/{HERE}/blas/libblas.a", b"!<arch>\n"),
    ]
    library: list[Member] = [(f"./lib/{HERE}/libdemo.so.1", b"ELF"), ("./usr/bin/demo", b"#!/bin/sh\n")]
    debs = [_deb(tmp_path / "libdemo-dev.deb", *headers), _deb(tmp_path / "libdemo1.deb", *library)]
    return sysroot.make(debs, tmp_path / "roots" / "demo", tmp_path / "log")


def _refused(tmp_path: Path, *debs: Path) -> str:
    """Make a build root in vain and return the reason; nothing is left of it."""
    place = tmp_path / "roots" / "demo"
    with pytest.raises(ArchiveError) as caught:
        sysroot.make(debs, place)
    assert debs[-1].name in caught.value.what
    assert caught.value.fix
    assert list(place.parent.iterdir()) == []
    return caught.value.why


def test_packages_are_merged_into_one_folder(root: Path) -> None:
    """Whatever a package calls a place, it is below usr, and the old name leads there."""
    assert (root / "usr" / "include" / "demo.h").read_text(encoding="utf-8") == "int demo;"
    assert (root / "usr" / "lib" / HERE / "libdemo.so.1").read_bytes() == b"ELF"
    assert (root / "lib").readlink().as_posix() == "usr/lib"
    assert (root / "usr" / "bin" / "demo").stat().st_mode & 0o777 == 0o755


def test_absolute_links_stay_in_the_build_root(root: Path) -> None:
    """In a system they mean the system's root."""
    link = root / "usr" / "lib" / HERE / "libdemo.so"
    assert not link.readlink().is_absolute()
    assert link.resolve() == (root / "usr" / "lib" / HERE / "libdemo.so.1").resolve()


def test_relative_links_follow_what_is_moved(tmp_path: Path) -> None:
    """A link of lib counts its way up from there, not from usr/lib."""
    deb = _deb(tmp_path / "a.deb", ("./lib/a.so", "../usr/lib/b/a.so.1"), ("./usr/lib/b/a.so.1", b"a"))
    root = sysroot.make([deb], tmp_path / "root")
    assert (root / "usr" / "lib" / "a.so").read_bytes() == b"a"


def test_hard_links_become_files(tmp_path: Path) -> None:
    """Under the place that the file has come to."""
    deb = _deb(tmp_path / "a.deb", ("./lib/a", b"a"), _special("./lib/b", tarfile.LNKTYPE, "./lib/a"))
    root = sysroot.make([deb], tmp_path / "root")
    assert (root / "usr" / "lib" / "b").read_bytes() == b"a"
    assert (root / "usr" / "lib" / "b").stat().st_nlink == 1


def test_programs_gain_no_rights(tmp_path: Path) -> None:
    """Nothing in a build root runs as somebody else."""
    info = tarfile.TarInfo("./usr/bin/su")
    info.mode = 0o6755
    root = sysroot.make([_deb(tmp_path / "a.deb", info)], tmp_path / "root")
    assert (root / "usr" / "bin" / "su").stat().st_mode & 0o7777 == 0o755


def test_a_build_root_that_is_there_is_kept(root: Path) -> None:
    """It was given its name when it was whole."""
    (root / "mark").touch()
    assert sysroot.make([root / "not-there.deb"], root) == root
    assert (root / "mark").exists()


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    """The next run starts from nothing."""
    (tmp_path / "roots" / ".new-demo" / "root" / "usr").mkdir(parents=True)
    (tmp_path / "roots" / ".new-demo" / "root" / "usr" / "junk").touch()
    root = sysroot.make([_deb(tmp_path / "a.deb", ("./usr/a", b"a"))], tmp_path / "roots" / "demo")
    assert [path.name for path in (root / "usr").iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "roots").iterdir()] == ["demo"]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("../out", b""), "leads out"),
        (("./usr/../../out", b""), "leads out"),
        (("/usr/out", b""), "absolute"),
        (_special("./usr/null", tarfile.CHRTYPE), "special file"),
        (_special("./usr/pipe", tarfile.FIFOTYPE), "special file"),
        (("./usr/lib/link", "../../../out"), "outside"),
        (("./usr/lib/link", "a/../../../../out"), "outside"),
        (_special("./usr/lib/twin", tarfile.LNKTYPE, "../../out"), "out"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else None,
)
def test_hostile_members_are_refused(tmp_path: Path, member: tarfile.TarInfo | Member, reason: str) -> None:
    """They would reach out of the build root."""
    deb = _deb(tmp_path / "bad.deb", ("./usr/good", b""), member)
    assert reason in _refused(tmp_path, deb)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Not even through one of another package."""
    one = _deb(tmp_path / "one.deb", ("./usr/share/demo", "/etc"))
    two = _deb(tmp_path / "two.deb", ("./usr/share/demo/passwd", b""))
    assert "through the link" in _refused(tmp_path, one, two)


def test_two_packages_with_one_file_are_refused(tmp_path: Path) -> None:
    """A closure of a distribution has none such, so something is wrong with it."""
    one = _deb(tmp_path / "one.deb", ("./lib/a", b"1"))
    two = _deb(tmp_path / "two.deb", ("./usr/lib/a", b"2"))
    assert "twice" in _refused(tmp_path, one, two)


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    """It is dpkg-deb that says so."""
    bad = tmp_path / "bad.deb"
    bad.write_bytes(b"<html>")
    assert "dpkg-deb" in _refused(tmp_path, bad)


def test_a_package_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    """Nothing of it is kept."""
    deb = _deb(tmp_path / "bad.deb", ("./usr/a", bytes(range(256)) * 99))
    deb.write_bytes(deb.read_bytes()[:-80])
    assert _refused(tmp_path, deb)


def test_damaged_data_are_refused(tmp_path: Path) -> None:
    """A package is well formed, what is in it is no tar."""
    control = _tar(("./control", b"Package: demo\n"))
    deb = _ar(
        tmp_path / "bad.deb", ("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar", b"\xff" * 10240)
    )
    assert "damaged" in _refused(tmp_path, deb)


def test_a_full_disk_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what dpkg-deb says of it."""
    fake = tmp_path / "bin" / "dpkg-deb"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'dpkg-deb: error: write: No space left on device' >&2; exit 2\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent))
    with pytest.raises(DiskError, match="full"):
        sysroot.make([_deb(tmp_path / "a.deb")], tmp_path / "roots" / "demo")
    assert list((tmp_path / "roots").iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one makes it anew."""
    deb = _deb(tmp_path / "a.deb", ("./usr/a", b""))
    with monkeypatch.context() as patch:
        patch.setattr(run._stopping, "is_set", lambda: True)  # noqa: SLF001 - as Ctrl-C does
        with pytest.raises(InterruptedRunError):
            sysroot.make([deb], tmp_path / "roots" / "demo")
    assert list((tmp_path / "roots").iterdir()) == []
    assert sysroot.make([deb], tmp_path / "roots" / "demo").is_dir()


def test_compilers_find_headers_and_libraries(root: Path) -> None:
    """The usual places first, then those of the recipe, each where it has something for."""
    found = sysroot.variables(root, [f"usr/include/{HERE}/blas", f"usr/lib/{HERE}/blas"])
    include, lib = root / "usr" / "include", root / "usr" / "lib"
    assert found["CMAKE_C_STANDARD_INCLUDE_DIRECTORIES"] == f"{include};{include}/{HERE};{include}/{HERE}/blas"
    assert found["CMAKE_CXX_STANDARD_INCLUDE_DIRECTORIES"] == found["CMAKE_C_STANDARD_INCLUDE_DIRECTORIES"]
    assert found["LDFLAGS"] == (
        f"-Wl,--as-needed -L{lib}/{HERE} -L{lib} -L{lib}/{HERE}/blas"
        f" -Wl,-rpath-link,{lib}/{HERE}:{lib}:{root}/lib/{HERE}:{lib}/{HERE}/blas"
    )
    assert found["CMAKE_PREFIX_PATH"] == f"{root}/usr"
    assert found["CMAKE_INCLUDE_PATH"] == f"{include}/{HERE}/blas"
    assert found["CMAKE_LIBRARY_PATH"] == f"{lib}/{HERE}/blas:{lib}/{HERE}:{lib}"
    assert found["LD_LIBRARY_PATH"] == f"{lib}/{HERE}:{lib}:{lib}/{HERE}/blas"
    assert found["PKG_CONFIG_LIBDIR"].split(":")[0] == f"{lib}/{HERE}/pkgconfig"
    assert found["PKG_CONFIG_SYSROOT_DIR"] == str(root)
    assert sysroot.programs(root) == (root / "usr" / "bin",)
    assert sysroot.libraries(root) == (lib / HERE, lib)


def test_what_the_variables_name_is_what_a_compiler_reads(root: Path, tmp_path: Path) -> None:
    """Asked of the preprocessor itself."""
    compiler = shutil.which("cpp")
    if compiler is None:
        pytest.skip("there is no C preprocessor on this machine")
    (tmp_path / "a.c").write_text("#include <demo.h>\n#include <cblas.h>\n", encoding="utf-8")
    found = sysroot.variables(root, [f"usr/include/{HERE}/blas"])
    flags = [f"-isystem{path}" for path in found["CMAKE_C_STANDARD_INCLUDE_DIRECTORIES"].split(";")]
    done = subprocess.run([compiler, *flags, "a.c"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "int demo;" in done.stdout
    assert "int blas;" in done.stdout


def test_a_folder_that_no_package_has_is_an_error(root: Path) -> None:
    """A recipe that names it means other packages."""
    with pytest.raises(CatalogError, match="usr/lib/atlas"):
        sysroot.variables(root, ["usr/lib/atlas"])


def test_a_root_of_headers_alone_needs_no_processor(tmp_path: Path) -> None:
    """There is no folder named after one."""
    root = sysroot.make([_deb(tmp_path / "a.deb", ("./usr/include/a.h", b""))], tmp_path / "root")
    found = sysroot.variables(root)
    assert found["CMAKE_C_STANDARD_INCLUDE_DIRECTORIES"] == f"{root}/usr/include"
    assert "CMAKE_INCLUDE_PATH" not in found
    assert sysroot.programs(root) == ()
