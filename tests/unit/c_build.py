"""Builds C files of the core for tests: into a module of its own, with a few lines of glue, or into a program."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
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


def core_sources() -> list[Path]:
    """Give the files of the host stack and of what it stands on."""
    return [path for folder in ("base", "wire", "table", "host") for path in (FASTPATH / "src" / folder).glob("*.c")]


def build_program(name: str, sources: list[Path], *options: str, includes: tuple[Path, ...] = ()) -> Path:
    """Build build/NAME/NAME from the tree, compiling what has changed; `options` are the linker's."""
    place = ROOT / "build" / name
    place.mkdir(parents=True, exist_ok=True)
    folders = (FASTPATH / "include", FASTPATH / "src", ROOT / "build" / "include", *includes)
    own = {source.parent for source in sources}
    newest = max(path.stat().st_mtime for folder in {*folders, *own} for path in folder.rglob("*.h"))

    def compiled(source: Path) -> str:
        target = place / "_".join(source.relative_to(ROOT).with_suffix(".o").parts)
        if not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime, newest):
            began = time.time()
            paths = [f"-I{folder}" for folder in folders]
            command = ["gcc", "-std=gnu11", "-O2", "-g", *WARNINGS, *paths, "-c", str(source), "-o", str(target)]
            subprocess.run(command, check=True)
            os.utime(target, (began, began))  # a file that was changed meanwhile is newer
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run(["gcc", *objects, *options, "-o", str(place / name)], check=True)
    return place / name


def _load(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
