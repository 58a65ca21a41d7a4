"""The C core: the only module that imports it, and the place where errnos become exceptions."""

from __future__ import annotations

import os

from fastpath._core import ffi, lib
from fastpath._layout import ABI_HASH

__all__ = ["check", "ffi", "lib"]

if lib.core_abi_hash() != ABI_HASH:
    raise ImportError(
        "fastpath._core and fastpath._layout come from different builds; run setup.py build_ext --inplace"
    )


def check(result: int) -> int:
    """Give back a count or 0; raise OSError for a negated errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
