"""Compare nested states, such as those of checkpoints."""

import torch


def differing(a, b, path=""):
    """Path of the first difference of two nested states, or None."""
    if isinstance(a, torch.Tensor):
        return None if a.shape == b.shape and torch.equal(a, b) else path
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return path
        return next((d for k in a if (d := differing(a[k], b[k], f"{path}.{k}"))), None)
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return next((d for i, (x, y) in pairs if (d := differing(x, y, f"{path}.{i}"))), None)
    return None if a == b else path


def leaves(state, path=()):
    """Return every leaf of a nested state by its path, as plain numbers."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {path: state.tolist() if hasattr(state, "tolist") else state}
    return {k: v for key, part in items for k, v in leaves(part, (*path, key)).items()}
