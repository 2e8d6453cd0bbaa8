"""Training does not wait for torch's compiler, which it does not use."""

from __future__ import annotations


def skip_compiler_import() -> None:
    """Keep torch's optimisers from importing `torch._dynamo`, which takes about two seconds.

    Their methods import it at their first call to tell it that they are not to be compiled, and
    remember that. This puts what they remember in place. Another version of torch that works
    otherwise imports it as before.
    """
    import torch

    for method in vars(torch.optim.Optimizer).values():
        plain = vars(method).get("__wrapped__") if callable(method) else None
        if plain is not None:
            vars(plain).setdefault("__dynamo_disable", plain)
