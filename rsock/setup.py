"""Builds the SDK's own distribution: the Python client, the C library, and what runs unmodified programs."""

import runpy
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildAll(build_py):
    """Builds the C client beside the Python one."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """List the modules, which this file is not one of."""
        found = super().find_package_modules(package, package_dir)  # type: ignore[no-untyped-call]
        return [entry for entry in found if entry[1] != "setup"]

    def run(self) -> None:
        """Build into what the wheel is made of, or into the tree."""
        super().run()
        place = ROOT if self.editable_mode else Path(self.build_lib).resolve() / "rsock"
        generated = ROOT / "build" / "include"
        generated.mkdir(parents=True, exist_ok=True)
        (generated / "rsock_wire.h").write_text(runpy.run_path(str(ROOT / "c" / "header.py"))["text"]())
        client = runpy.run_path(str(ROOT / "c" / "build.py"))
        client["build"](place / "c" / "lib", ROOT / "build" / "objects", generated)


class Wheel(bdist_wheel):
    """Names a wheel that any Python can use, on this platform alone."""

    def get_tag(self) -> tuple[str, str, str]:
        """Give the tag."""
        return "py3", "none", super().get_tag()[2]


class WithPrograms(Distribution):
    """A distribution that is not pure Python, though it has no extension module."""

    def has_ext_modules(self) -> bool:
        """Tell that there is something for one platform alone."""
        return True


setup(cmdclass={"build_py": BuildAll, "bdist_wheel": Wheel}, distclass=WithPrograms)
