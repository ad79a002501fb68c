"""What the machine does meanwhile, under MLflow's own names, so that its page of system metrics shows it."""

from __future__ import annotations

import contextlib

import psutil
import torch

__all__ = ["system_metrics"]

# psutil gives the use since the call before; the first one has none
psutil.cpu_percent()


def system_metrics() -> dict[str, float]:
    """Processor use since the last call in this process in %, and memory; the same of every GPU seen."""
    memory = psutil.virtual_memory()
    found = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
        "system/process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        found[f"system/gpu_{i}_memory_usage_megabytes"] = (total - free) / 1e6
        with contextlib.suppress(ModuleNotFoundError, RuntimeError):  # without NVML
            found[f"system/gpu_{i}_utilization_percentage"] = float(torch.cuda.utilization(i))
    return found
