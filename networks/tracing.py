"""Whether compiled loops can be used, or operations must be torch's own."""

from __future__ import annotations

import torch
from torch import Tensor


def can_use_kernels(tensor: Tensor) -> bool:
    """Whether compiled loops may read a tensor: it is on the CPU, and nothing is being traced.

    A trace, from which a model file is written, records torch's operations and no others.
    """
    return tensor.device.type == "cpu" and not torch.jit.is_tracing()
