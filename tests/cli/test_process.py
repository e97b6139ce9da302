"""The process's settings: the search for GPUs and the allocator."""

import platform

import pytest
import torch
from helpers import ROOT, run_python

from cli.process import skip_nvml_search


@pytest.mark.skipif(torch.version.cuda is None or torch.cuda.is_available(), reason="asks a CUDA build without a GPU")
def test_a_machine_without_gpus_is_searched_only_once(monkeypatch):
    """Each step of an optimizer calls `torch.accelerator.is_available`."""
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    searches, search = [], torch.cuda._raw_device_count_nvml
    monkeypatch.setattr(torch.cuda, "_raw_device_count_nvml", lambda: searches.append(1) or search())
    for _ in range(2):
        torch.accelerator.is_available()
    assert len(searches) == 2
    skip_nvml_search()
    searches.clear()
    assert not torch.accelerator.is_available()
    assert searches == []


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept():
    """In a process of its own, because the setting cannot be undone."""
    program = """
import resource, torch
from cli.process import keep_freed_memory

def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.ones(4_000_000)
returned = count_faults()
keep_freed_memory()
torch.ones(4_000_000)
print(returned, count_faults())
"""
    returned, kept = map(int, run_python("-c", program, cwd=ROOT).stdout.split())
    assert returned > 20 * kept
