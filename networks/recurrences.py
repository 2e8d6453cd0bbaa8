"""GRU and LSTM over sequences in which episodes begin, with gradients written out.

`torch.nn.GRU` cannot clear its memory in the middle of a sequence, and a loop over
`torch.nn.GRUCell` records ten operations a step. Here the inputs of all steps are projected by one
product, a step takes a few operations that autograd does not record, and the backward pass computes
all that does not depend on later steps, and the gradients of the weights, for all steps at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def gru(
    inputs: Tensor, hidden: Tensor, is_first: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a GRU (Cho et al. 2014, as `torch.nn.GRU`) whose memory is cleared where episodes begin.

    Args:
        inputs: [T, N, 3H] projected inputs of the gates reset, update and new, with their bias.
        hidden: [N, H] before the first step.
        is_first: [T, N] bool; the memory is cleared before these steps.
        weight: [3H, H] of the memory.
        bias: [3H] of the memory.

    Returns:
        [T, N, H] outputs, and the memory [N, H] after the last step.
    """
    if torch.jit.is_tracing():
        return _plain_gru(inputs, hidden, is_first, weight, bias)
    outputs = _GRU.apply(inputs, hidden, is_first, weight, bias)
    return outputs, outputs[-1]


def lstm(
    inputs: Tensor, hidden: Tensor, cell: Tensor, is_first: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run an LSTM (Gers et al. 2000, as `torch.nn.LSTM`), cleared where episodes begin.

    Args:
        inputs: [T, N, 4H] projected inputs of the gates input, forget, cell and output, with their
            bias.
        hidden: [N, H] before the first step.
        cell: [N, H] before the first step.
        is_first: [T, N] bool; the memory is cleared before these steps.
        weight: [4H, H] of the memory.
        bias: [4H] of the memory.

    Returns:
        [T, N, H] outputs, and hidden and cell [N, H] after the last step.
    """
    if torch.jit.is_tracing():
        return _plain_lstm(inputs, hidden, cell, is_first, weight, bias)
    outputs, cell = _LSTM.apply(inputs, hidden, cell, is_first, weight, bias)
    return outputs, outputs[-1], cell


def _plain_gru(
    inputs: Tensor, hidden: Tensor, is_first: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute `gru` by operations that a trace records."""
    outputs = []
    for projected, first in zip(inputs.unbind(0), is_first.unbind(0), strict=True):
        hidden = hidden * (~first)[:, None].to(hidden.dtype)
        reset, update, new = projected.chunk(3, -1)
        own_reset, own_update, own_new = nn.functional.linear(hidden, weight, bias).chunk(3, -1)
        update = torch.sigmoid(update + own_update)
        new = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
        hidden = new + update * (hidden - new)
        outputs.append(hidden)
    return torch.stack(outputs), hidden


def _plain_lstm(
    inputs: Tensor, hidden: Tensor, cell: Tensor, is_first: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `lstm` by operations that a trace records."""
    outputs = []
    for projected, first in zip(inputs.unbind(0), is_first.unbind(0), strict=True):
        keep = (~first)[:, None].to(hidden.dtype)
        gates = projected + nn.functional.linear(hidden * keep, weight, bias)
        take, forget, new, give = gates.chunk(4, -1)
        cell = torch.sigmoid(forget) * (cell * keep) + torch.sigmoid(take) * torch.tanh(new)
        hidden = torch.sigmoid(give) * torch.tanh(cell)
        outputs.append(hidden)
    return torch.stack(outputs), hidden, cell


def _kept(is_first: Tensor, like: Tensor) -> list[Tensor | None]:
    """Return for each step what its memory is multiplied by, [N, 1]; None where all is kept."""
    keep = (~is_first).to(like.dtype)[..., None]
    return [keep[t] if cleared else None for t, cleared in enumerate(is_first.any(1).tolist())]


def _clear(memory: Tensor, keep: Tensor | None, out: Tensor) -> None:
    """Write a memory [N, H] to `out`, cleared where `keep` is 0."""
    if keep is not None:
        torch.mul(memory, keep, out=out)
    elif out is not memory:
        out.copy_(memory)


class _GRU(Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, hidden: Tensor, is_first: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        T, N, H = *inputs.shape[:2], hidden.shape[1]
        keep, across = _kept(is_first, inputs), weight.t()
        before = inputs.new_empty(T, N, H)  # the memory that a step reads
        gates = inputs.new_empty(T, N, 3, H)  # reset, update, and the new memory
        recalled = inputs.new_empty(T, N, H)  # what the memory adds to the new one, before reset
        outputs = inputs.new_empty(T, N, H)
        projected = inputs.reshape(T, N, 3, H)
        for t in range(T):
            old = before[t]
            _clear(hidden, keep[t], old)
            own = torch.addmm(bias, old, across).view(N, 3, H)
            both, new = gates[t, :, :2], gates[t, :, 2]
            torch.add(projected[t, :, :2], own[:, :2], out=both).sigmoid_()
            recalled[t] = own[:, 2]
            torch.addcmul(projected[t, :, 2], both[:, 0], own[:, 2], out=new).tanh_()
            hidden = torch.lerp(new, old, both[:, 1], out=outputs[t])
        ctx.save_for_backward(before, gates, recalled, is_first, weight)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        before, gates, recalled, is_first, weight = ctx.saved_tensors
        keep = _kept(is_first, before)
        T, N, H = before.shape
        reset, update, new = gates.unbind(2)
        # derivatives of the gates' inputs by a step's output, as the memory's product sees them
        by_new = (1 - update) * (1 - new.square())
        by_gate = torch.stack(
            [
                by_new * recalled * reset * (1 - reset),
                (before - new) * update * (1 - update),
                by_new * reset,
            ],
            2,
        )
        d_output = torch.empty_like(before)  # with what later steps add
        d_own = torch.empty_like(gates)
        d_hidden = before.new_zeros(N, H)
        for t in range(T - 1, -1, -1):
            total = torch.add(d_outputs[t], d_hidden, out=d_output[t])
            torch.mul(by_gate[t], total[:, None], out=d_own[t])
            d_hidden = torch.addmm(total * update[t], d_own[t].view(N, 3 * H), weight)
            _clear(d_hidden, keep[t], d_hidden)
        d_inputs = d_own.clone()
        torch.mul(d_output, by_new, out=d_inputs[:, :, 2])
        rows = d_own.view(T * N, 3 * H)
        d_weight = rows.t() @ before.view(T * N, H)
        return d_inputs.view(T, N, 3 * H), d_hidden, None, d_weight, rows.sum(0)


class _LSTM(Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        is_first: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        T, N, H = *inputs.shape[:2], hidden.shape[1]
        keep, across = _kept(is_first, inputs), weight.t()
        before, stored = inputs.new_empty(T, N, H), inputs.new_empty(T, N, H)  # hidden and cell
        gates = (inputs + bias).reshape(T, N, 4, H)
        squashed, outputs = inputs.new_empty(T, N, H), inputs.new_empty(T, N, H)
        for t in range(T):
            _clear(hidden, keep[t], before[t])
            _clear(cell, keep[t], stored[t])
            gates[t].view(N, 4 * H).addmm_(before[t], across)
            gates[t, :, :2].sigmoid_()
            gates[t, :, 2].tanh_()
            gates[t, :, 3].sigmoid_()
            take, forget, new, give = gates[t].unbind(1)
            cell = torch.addcmul(take * new, forget, stored[t])
            hidden = torch.mul(give, torch.tanh(cell, out=squashed[t]), out=outputs[t])
        ctx.save_for_backward(before, stored, gates, squashed, is_first, weight)
        return outputs, cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor, d_cell: Tensor) -> tuple[Tensor | None, ...]:
        before, stored, gates, squashed, is_first, weight = ctx.saved_tensors
        keep = _kept(is_first, before)
        T, N, H = before.shape
        take, forget, new, give = gates.unbind(2)
        by_cell = torch.stack(  # derivatives of three gates' inputs by the cell
            [
                new * take * (1 - take),
                stored * forget * (1 - forget),
                take * (1 - new.square()),
            ],
            2,
        )
        by_output = squashed * give * (1 - give)  # of the fourth's by the output
        to_cell = give * (1 - squashed.square())
        d_gates = torch.empty_like(gates)
        d_hidden = before.new_zeros(N, H)
        for t in range(T - 1, -1, -1):
            total = d_outputs[t] + d_hidden
            d_cell = torch.addcmul(d_cell, total, to_cell[t])
            torch.mul(by_cell[t], d_cell[:, None], out=d_gates[t, :, :3])
            torch.mul(by_output[t], total, out=d_gates[t, :, 3])
            d_hidden = d_gates[t].view(N, 4 * H) @ weight
            d_cell = d_cell * forget[t]
            _clear(d_hidden, keep[t], d_hidden)
            _clear(d_cell, keep[t], d_cell)
        rows = d_gates.view(T * N, 4 * H)
        d_weight = rows.t() @ before.view(T * N, H)
        d_inputs = d_gates.view(T, N, 4 * H)
        return d_inputs, d_hidden, d_cell, None, d_weight, rows.sum(0)
