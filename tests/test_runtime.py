"""What the runtime asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

KEPT = """
import resource, torch
from pipelines.runtime import keep_memory
assert keep_memory()
def step():
    return sum(float((torch.ones(2**22) + i).sum()) for i in range(4))
for warm_up in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for again in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_asked_for_again():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    # eighty tensors of 4096 pages pass through; where the heap lies may cost a few of them
    assert int(done.stdout) < 80 * 4096 // 10
