"""Builds the C core and the console scripts; everything else stands in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["fastpath/build.py:ffi"])
