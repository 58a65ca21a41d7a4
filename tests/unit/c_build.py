"""Builds some C files of the core, with a few lines of glue, into a module of its own for a white-box test."""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cffi import FFI

if TYPE_CHECKING:
    from types import ModuleType

ROOT: Final = Path(__file__).resolve().parents[2]
FASTPATH: Final = ROOT / "fastpath"
WARNINGS: Final = ("-Wall", "-Wextra", "-Wshadow", "-Wvla", "-Wno-unused-parameter", "-Werror")


@functools.cache
def build(name: str, sources: tuple[str, ...], declarations: str, code: str) -> Any:
    """Compile `sources` (relative to fastpath/src) and `code`; give the module with its lib and ffi."""
    builder = FFI()
    builder.cdef(declarations)
    sanitize = os.environ.get("ANABRANCH_SANITIZE", "")
    flags = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"] if sanitize else []
    builder.set_source(
        name,
        code,
        sources=[str(FASTPATH / "src" / source) for source in sources],
        include_dirs=[str(FASTPATH / "include"), str(FASTPATH / "src"), str(ROOT / "build" / "include")],
        extra_compile_args=["-std=gnu11", "-O2", "-g", "-fno-strict-aliasing", *WARNINGS, *flags],
        extra_link_args=flags,
    )
    with tempfile.TemporaryDirectory(prefix="anabranch-test-") as folder:
        return _load(name, builder.compile(tmpdir=folder))


def _load(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
