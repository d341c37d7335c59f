"""Load of NVIDIA GPUs, through nvidia-ml-py (`pip install nvidia-ml-py`)."""

from __future__ import annotations

import pynvml


class GpuReadings:
    """The GPUs of this machine; none where there is no driver."""

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
            self._devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            self._devices = []

    def take(self) -> tuple[float | None, float | None]:
        """Percent of memory in use and of utilisation, each the maximum over all GPUs; None if unknown."""
        try:
            memories = [pynvml.nvmlDeviceGetMemoryInfo(device) for device in self._devices]
            rates = [pynvml.nvmlDeviceGetUtilizationRates(device) for device in self._devices]
        except pynvml.NVMLError:
            return None, None  # not supported by some devices
        used = max((100.0 * memory.used / memory.total for memory in memories if memory.total), default=None)
        return used, max((float(rate.gpu) for rate in rates), default=None)
