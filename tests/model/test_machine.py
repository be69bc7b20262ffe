"""What is found out about the machine that a run works on."""

import pytest

from workflows.model.machine import has_fast_bf16


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [
        ("AuthenticAMD", "avx2 avx512f avx512_bf16", True),
        ("GenuineIntel", "avx2 avx512f avx512_bf16", False),
        ("GenuineIntel", "avx2 avx512f avx512_bf16 amx_bf16 amx_tile", True),
        ("AuthenticAMD", "avx2 avx512f", False),
        ("", "", False),  # no /proc, or another kind of processor
    ],
)
def test_a_cpu_gets_bf16_where_that_is_faster(vendor: str, flags: str, fast: bool) -> None:
    assert has_fast_bf16(vendor, flags) == fast
