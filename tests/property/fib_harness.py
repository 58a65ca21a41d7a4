"""Builds the tables part of the C core, with entries for tests, as a module of its own."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from cffi import FFI

from fastpath.build import ABI, GENERATED, abi_text

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCE = ROOT / "fastpath" / "src"
# Of abi/core.h, what lies outside the tables.
ELSEWHERE = re.compile(
    r"^[^\n]*\b(core_\w+|link_end_\w+|confine_\w+|forwarder_\w+|zygote_\w+|fletcher_\w+|spf_\w+|bgp_\w+|watch_\w+)\([^;]*;\n",
    re.MULTILINE,
)
INTERNAL = """
struct tables_view;
bool view_refresh(struct tables_view *view);
const struct interface_entry *view_interface(const struct tables_view *view, uint16_t index);
const struct interface_entry *view_interface_of(const struct tables_view *view, uint16_t port, uint16_t vlan);
const struct address_entry *view_address(const struct tables_view *view, uint8_t family, const uint8_t *address,
    uint16_t interface);
void view_enter(const struct tables_view *view, struct worker_state *worker);
void view_leave(struct worker_state *worker);
uint16_t fib_lookup(const struct tables_view *view, uint8_t family, const uint8_t *address);
void fib_lookup_batch(const struct tables_view *view, uint8_t family, const uint8_t *addresses, uint32_t count,
    uint16_t *groups);
const struct nexthop *nexthop_select(const struct tables_view *view, uint16_t group, uint32_t hash);
"""


def c_files() -> list[str]:
    """List what the library is built from."""
    base = [SOURCE / "base" / f"{name}.c" for name in ("crc32", "siphash", "segment")]
    return [str(path) for path in (*base, *sorted(SOURCE.glob("table/*.c")), *sorted(SOURCE.glob("bulk/*.c")))]


def include_dirs() -> list[str]:
    """List the folders that C includes count from."""
    return [str(ROOT / "fastpath" / "include"), str(SOURCE), str(GENERATED), str(HERE)]


def _declarations() -> str:
    header = re.sub(r"//[^\n]*|^#[^\n]*", "", (HERE / "fib_harness.h").read_text(), flags=re.MULTILINE)
    return ELSEWHERE.sub("", abi_text()) + INTERNAL + header


def load(place: Path) -> Any:
    """Compile into `place` and import."""
    builder = FFI()
    builder.cdef(_declarations())
    includes = [f"abi/{name}.h" for name in ABI] + ["fib_harness.h"]
    builder.set_source(
        "_fib_harness",
        "".join(f'#include "{name}"\n' for name in includes),
        sources=[*c_files(), str(HERE / "fib_harness.c")],
        include_dirs=include_dirs(),
        extra_compile_args=["-std=gnu11", "-O2", "-g", "-fno-strict-aliasing", "-DANABRANCH_CRASHPOINTS"],
        extra_link_args=["-pthread"],
    )
    spec = importlib.util.spec_from_file_location("_fib_harness", builder.compile(tmpdir=str(place)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
