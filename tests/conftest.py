"""One torch thread: tests must not slow down when another process wants the second core."""

import torch

torch.set_num_threads(1)
