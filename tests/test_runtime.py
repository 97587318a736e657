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
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_kept_memory_is_not_asked_for_again():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # eight tensors of 4096 pages pass through
