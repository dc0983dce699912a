"""Patches: what a diff can be made to say, to a tree that holds links."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st

from mmstack.errors import PatchError
from mmstack.model import Patch
from mmstack.patches import apply, is_applied
from tests.fuzz.cases import contents, damaged, edited, fuzz, refusable, texts

OLD = "".join(f"line {number}\n" for number in range(1, 10))
VALID = """\
Subject: a change

--- a/file.py
+++ b/file.py
@@ -2,3 +2,4 @@
 line 2
-line 3
+line three
+and more
 line 4
diff --git a/sub/old.c b/sub/old.c
deleted file mode 100644
--- a/sub/old.c
+++ /dev/null
@@ -1 +0,0 @@
-int a;
diff --git a/sub/new.c b/sub/new.c
new file mode 100644
--- /dev/null
+++ b/sub/new.c
@@ -0,0 +1,2 @@
+int b;
+int c;
\\ No newline at end of file
"""
TRICKS = (
    "--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-int a;\n+int evil;\n",
    "--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+int evil;\n",
    "diff --git a/{name} b/{name}\nnew file mode 120000\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+../outside\n",
    "diff --git a/{name} b/{name}\nnew file mode 100755\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+#!/bin/sh\n",
    "diff --git a/{name} b/{name}\nold mode 100644\nnew mode 100755\n",
    "diff --git a/file.py b/{name}\nsimilarity index 100%\nrename from file.py\nrename to {name}\n",
    "diff --git a/file.py b/{name}\nsimilarity index 100%\ncopy from file.py\ncopy to {name}\n",
    "diff --git a/{name} b/{name}\nGIT binary patch\nliteral 3\nKcmZQzU|?ckU{C-D00Mvk0Rk2P1qJ}\n\n",
    "Binary files a/{name} and b/{name} differ\n",
    "--- {name}\n+++ {name}\n@@ -1,0 +1 @@\n+int evil;\n",
    '--- "a/{name}"\n+++ "b/{name}"\n@@ -1 +1 @@\n-int a;\n+int evil;\n',
    "--- a/{name}\t2020-01-01\n+++ b/{name}\t2020-01-01\n@@ -1 +1 @@\n-int a;\n+int evil;\n",
    "--- a/{name}\n+++ /dev/null\n@@ -1 +0,0 @@\n-secret\n",
    "--- a/file.py\n+++ b/{name}\n@@ -1,9999999999 +1,1 @@\n-line 1\n+x\n",
    "--- a/file.py\n+++ b/file.py\n@@ -99999999999999999999 +1 @@\n-line 1\n+{name}\n",
    "--- a/sub\n+++ b/sub\n@@ -1 +1 @@\n-{name}\n+x\n",
)
NAMES = st.one_of(
    st.sampled_from(
        [
            "file.py",
            "sub/old.c",
            "sub/../file.py",
            "../outside/secret",
            "../../outside/secret",
            "/etc/passwd",
            "link/secret",
            "link",
            "dangling",
            "dangling/x",
            "loop/x",
            "sub/new/deep/er",
            "file.py/below",
            ".git/hooks/post-checkout",
            "sub//old.c",
            "sub/./old.c",
            "a/b/file.py",
            "sub\\old.c",
            "\\056\\056/outside/secret",
            "fifo",
        ]
    ),
    texts,
)
BODIES = st.one_of(
    edited(VALID).map(lambda text: text.encode("utf-8", "surrogatepass")),
    damaged(VALID.encode()),
    st.tuples(st.sampled_from(TRICKS), NAMES).map(lambda pair: _named(*pair)),
    st.lists(st.tuples(st.sampled_from(TRICKS), NAMES), min_size=2, max_size=3).map(
        lambda pairs: b"".join(_named(*pair) for pair in pairs)
    ),
    st.text(max_size=60).map(lambda text: (VALID + text).encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
    st.sampled_from([b"", VALID.encode("utf-16"), VALID.replace("\n", "\r\n").encode(), VALID.encode() * 200]),
)


def _named(trick: str, name: str) -> bytes:
    return trick.replace("{name}", name).encode("utf-8", "surrogatepass")


def lay_out(base: Path) -> Path:
    """Make a tree, beside it what no patch for it may touch, and return the tree."""
    tree = base / "tree"
    (tree / "sub").mkdir(parents=True)
    (base / "outside").mkdir()
    (base / "outside" / "secret").write_text("secret\n", encoding="utf-8")
    (tree / "file.py").write_text(OLD, encoding="utf-8")
    (tree / "sub" / "old.c").write_text("int a;\n", encoding="utf-8")
    (tree / "link").symlink_to("../outside")
    (tree / "dangling").symlink_to("../outside/new")
    (tree / "loop").symlink_to("loop")
    return tree


def written(base: Path, body: bytes) -> Patch:
    """Return a patch of these bytes."""
    file = base / "0001-x.patch"
    file.write_bytes(body)
    return Patch(
        id="x", project="p", file=file, sha256="", versions="", reason="", upstream="", retire_when="", when={}
    )


@fuzz("patches", share=3, body=BODIES)
def test_a_patch_is_applied_or_refused(body: bytes) -> None:
    """Whole or not at all, and never to what is outside the tree or behind a link."""
    with TemporaryDirectory() as name:
        base = Path(name)
        tree = lay_out(base)
        patch = written(base, body)
        before = contents(base)
        try:
            with refusable() as refused:
                is_applied(patch, tree)
                apply(patch, tree)
            after = contents(base)
            changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
            if refused:
                assert isinstance(refused[0], PatchError)
                assert not changed
            assert all(path.startswith("tree/") for path in changed)
            assert not {"tree/link", "tree/dangling", "tree/loop"} & changed
            assert not any(os.path.islink(base / path) for path in changed)  # noqa: PTH114 - also what loops
        finally:
            shutil.rmtree(base / "tree", ignore_errors=True)


def test_the_patch_applies_as_it_is(tmp_path: Path) -> None:
    """What is changed above is valid before: of a patch that is refused unread, no change could find anything."""
    tree, patch = lay_out(tmp_path), written(tmp_path, VALID.encode())
    assert not is_applied(patch, tree)
    apply(patch, tree)
    assert is_applied(patch, tree)
    assert (tree / "sub" / "new.c").read_text(encoding="utf-8") == "int b;\nint c;"
    assert not (tree / "sub" / "old.c").exists()
