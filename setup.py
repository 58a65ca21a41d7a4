"""Builds the C core, the C client of rsock, the BPF programs and the scripts; all else stands in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class BuildAll(build_ext):
    """Builds the core, and beside it what C programs and unmodified ones need."""

    def run(self) -> None:
        """Build where extensions go: into the tree, or into what a wheel is made of."""
        super().run()
        place = ROOT if self.inplace or self.editable_mode else Path(self.build_lib).resolve()
        client = runpy.run_path(str(ROOT / "rsock" / "c" / "build.py"))
        client["build"](place / "rsock" / "c" / "lib", Path(self.build_temp).resolve() / "client")
        programs = runpy.run_path(str(ROOT / "fastpath" / "bpf" / "build.py"))
        programs["build"](place / "fastpath" / "bpf" / "lib", Path(self.build_temp).resolve() / "bpf")


setup(cffi_modules=["fastpath/build.py:ffi", "fastpath/build.py:glance"], cmdclass={"build_ext": BuildAll})
