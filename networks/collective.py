"""Exchange between the processes of a run: sums, means, gathered rows, broadcasts.

The state is that of `torch.distributed`: where it is not initialised, a run has one process and
every function returns what it was given. Functions that exchange something must be called by all
processes in the same order; each returns the same in all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT_SECONDS = 3600.0
"""Time to wait for another process that lives and does not answer, as while rank 0 evaluates."""


class CollectiveError(RuntimeError):
    """Another process of the run has ended, or did not answer in time."""


def size() -> int:
    """Return the number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; rank 0 writes the run directory."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_launched() -> bool:
    """Whether torchrun, or another launcher that sets its variables, started several processes."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(*, cuda: bool = False, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[None]:
    """Join the processes that torchrun started, until the block is left; alone, do nothing.

    Args:
        cuda: use the GPU of this process's local rank, and NCCL for what lies on it. Where there
            are fewer GPUs than processes, these share them, and gloo exchanges through the CPU.
        timeout_seconds: see `TIMEOUT_SECONDS`.

    Raises:
        CollectiveError: if the others do not join.
    """
    if not is_launched() or dist.is_initialized():
        yield
        return
    backend = "gloo"
    if cuda:
        count = torch.cuda.device_count()
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % count)
        if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= count and dist.is_nccl_available():
            backend = "cpu:gloo,cuda:nccl"
    with _errors():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    yield
    dist.destroy_process_group()  # not after an error: it may wait for processes that are gone


def total(number: int) -> int:
    """Add up a whole number."""
    return number if size() == 1 else int(sum(torch.tensor(number)))


def any_true(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(total(int(flag)))


def sum(x: Tensor) -> Tensor:
    """Add up tensors of one shape, element by element; not for bool."""
    return _reduced(x, dist.ReduceOp.SUM)


def maximum(x: Tensor) -> Tensor:
    """Compute the largest of each element of tensors of one shape; not for bool."""
    return _reduced(x, dist.ReduceOp.MAX)


def minimum(x: Tensor) -> Tensor:
    """Compute the smallest of each element of tensors of one shape; not for bool."""
    return _reduced(x, dist.ReduceOp.MIN)


def mean(x: Tensor) -> Tensor:
    """Compute the mean of the rows of all processes: [R, ...] to [...]; NaN without any row."""
    if size() == 1:
        return x.mean() if x.dim() == 1 else x.mean(0)
    added = torch.cat([x.double().sum(0).flatten(), x.new_tensor([len(x)]).double()])
    added = sum(added)
    return (added[:-1] / added[-1]).view(x.shape[1:]).to(x.dtype)


def mean_and_var(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and variance of the numbers [R] of all processes, without correction."""
    if size() == 1:
        return x.mean(), x.var(correction=0)
    count, average, spread = _moments(x)
    return average.to(x.dtype), (spread / count).to(x.dtype)


def mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and deviation of the numbers [R] of all processes, with Bessel's correction."""
    if size() == 1:
        return x.mean(), x.std()
    count, average, spread = _moments(x)
    return average.to(x.dtype), (spread / (count - 1)).sqrt().to(x.dtype)


def sum_gradients(parameters: Sequence[nn.Parameter], logs: Tensor) -> Tensor:
    """Add up gradients in place, and return the sum of `logs` [L]; all in one exchange.

    Each process scales its gradient beforehand, by its share of the rows. A parameter without a
    gradient in any process still has none.
    """
    if size() == 1:
        return logs
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present = logs.new_tensor([p.grad is not None for p in parameters])
    added = sum(torch.cat([*(gradient.flatten() for gradient in gradients), present, logs]))
    parts = added.split([*(p.numel() for p in parameters), len(parameters), len(logs)])
    for p, part, some in zip(parameters, parts, parts[-2].tolist(), strict=False):
        p.grad = part.view_as(p).to(p.dtype).contiguous() if some else None
    return parts[-1]


def stack(x: Tensor) -> Tensor:
    """Stack tensors of one shape [...] by rank: [size, ...]."""
    if size() == 1:
        return x[None]
    own = _sendable(x)
    parts = [torch.empty_like(own) for _ in range(size())]
    with _errors():
        dist.all_gather(parts, own)
    return torch.stack(parts).to(x.device)


def gather_rows(x: Tensor) -> Tensor:
    """Join rows [R, ...], of any R in each process, in the order of ranks."""
    if size() == 1:
        return x
    counts = stack(torch.tensor(len(x))).tolist()
    padded = x.new_zeros((max(counts), *x.shape[1:]))
    padded[: len(x)] = x
    return torch.cat([part[:n] for part, n in zip(stack(padded), counts, strict=True)])


def gather_columns(x: Tensor) -> Tensor:
    """Join columns, in the order of ranks: [T, N, ...] to [T, size * N, ...]."""
    return x if size() == 1 else torch.cat([*stack(x)], 1)


def gather_json(value: Any) -> list[Any]:
    """Return the value of each process, by rank. It is sent as JSON."""
    if size() == 1:
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value), "utf-8"), dtype=torch.uint8)
    counts = stack(torch.tensor(len(data))).tolist()
    texts = gather_rows(data).split(counts)
    return [json.loads(text.numpy().tobytes()) for text in texts]


def broadcast_bytes(data: bytes) -> bytes:
    """Return what rank 0 gives."""
    if size() == 1:
        return data
    length = total(len(data) if rank() == 0 else 0)
    sent = torch.zeros(length, dtype=torch.uint8)
    if rank() == 0:
        sent = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    with _errors():
        dist.broadcast(sent, 0)
    return sent.numpy().tobytes()


@torch.no_grad()
def broadcast_module(module: nn.Module) -> None:
    """Set parameters and buffers to those of rank 0, which have the same shapes."""
    for tensor in [*module.parameters(), *module.buffers()] if size() > 1 else ():
        sent = _sendable(tensor)
        with _errors():
            dist.broadcast(sent, 0)
        tensor.copy_(sent)


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations of the numbers [R] of all processes; float64."""
    x = x.double()
    own = x.new_zeros(3)
    if len(x):
        own = torch.stack([x.new_tensor(len(x)), x.mean(), (x - x.mean()).square().sum()])
    count, average, spread = stack(own).unbind(1)
    whole = count.sum()
    middle = (count * average).sum() / whole
    return whole, middle, (spread + count * (average - middle).square()).sum()


def _reduced(x: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if size() == 1:
        return x
    out = _sendable(x)
    with _errors():
        dist.all_reduce(out, operation)
    return out.to(x.device)


def _sendable(x: Tensor) -> Tensor:
    """Copy a tensor to where the backend can send it from."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    own = x.is_cuda and "cuda:nccl" in dist.get_backend_config()
    return x if own else x.cpu()


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise CollectiveError(
            f"another process of the run has ended or does not answer: {error}"
        ) from error
