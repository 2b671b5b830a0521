from __future__ import annotations

import subprocess
import sys

import pytest

# Pages that the kernel had to provide while blocks of the size of activations came and went.
FAULTS = """
import ctypes, resource, sys
from t2ipal import allocator

# PR_SET_THP_DISABLE: where the kernel gives huge pages unasked, one fault would stand for 512 pages.
ctypes.CDLL(None).prctl(41, *map(ctypes.c_ulong, (1, 0, 0, 0)))
if sys.argv[1] == "kept" and not allocator.keep_freed():
    sys.exit("not glibc")
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in [40, 60, 80] * 3:
        b"1" * (megabytes << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(way: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=False)
    if "not glibc" in done.stderr:
        pytest.skip("the C library is not glibc")
    return int(done.stdout)


def test_memory_that_was_freed_is_not_fetched_from_the_kernel_again():
    pages = 3 * (40 + 60 + 80) * 256
    assert _faults("kept") < pages / 20 < pages / 2 < _faults("plain")


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    from t2ipal import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed()
