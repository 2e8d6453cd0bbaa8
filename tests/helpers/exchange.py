"""What `test_collective` calls in each rank: every exchange once, on numbers of the rank."""

import json

import torch

from firstlight.networks import collective


def rows(rank):
    """Rows of a rank, [rank + 2, 3]; in rank 1 also with the largest number."""
    return torch.arange((rank + 2) * 3.0).view(-1, 3) * (rank + 1) - 1


class Two(torch.nn.Module):
    """Two parameters, of which one has a gradient in rank 1 alone, and a third without any."""

    def __init__(self):
        super().__init__()
        self.both, self.one, self.none = (
            torch.nn.Parameter(torch.full((2,), 1.0 + collective.rank())) for _ in range(3)
        )
        self.register_buffer("flag", torch.tensor(collective.rank() == 0))


def exchange():
    """Print the result of each exchange in this rank."""
    with collective.joined():
        rank = collective.rank()
        x, empty = rows(rank), rows(rank)[: 0 if rank == 0 else 2, 0]
        module = Two()
        module.both.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
        if rank == 1:
            module.one.grad = torch.tensor([5.0, 6.0])
        logs = collective.sum_gradients([*module.parameters()], torch.tensor([1.0 + rank]))
        collective.broadcast_module(module)
        found = {
            "size": collective.size(),
            "rank": rank,
            "total": collective.total(rank + 1),
            "any": [collective.any_true(rank == 1), collective.any_true(False)],
            "sum": collective.sum(x[:2]).tolist(),
            "maximum": collective.maximum(x[0]).tolist(),
            "minimum": collective.minimum(x[0]).tolist(),
            "mean": collective.mean(x).tolist(),
            "mean_1d": collective.mean(x[:, 0]).item(),
            "mean_and_var": [float(y) for y in collective.mean_and_var(x[:, 1])],
            "mean_and_std": [float(y) for y in collective.mean_and_std(x[:, 1])],
            "with_empty": [float(y) for y in collective.mean_and_var(empty)],
            "gather_rows": collective.gather_rows(x).tolist(),
            "gather_empty": collective.gather_rows(empty).tolist(),
            "gather_columns": collective.gather_columns(x[:2]).tolist(),
            "gather_json": collective.gather_json({"rank": rank, "text": "é" * rank}),
            "broadcast": collective.broadcast_bytes(b"zero" if rank == 0 else b"").decode(),
            "logs": logs.tolist(),
            "gradients": [None if p.grad is None else p.grad.tolist() for p in module.parameters()],
            "module": [t.tolist() for t in module.state_dict().values()],
        }
    print(json.dumps(found))
