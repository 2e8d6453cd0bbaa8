"""Logistic regression with balanced classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_logistic(inputs: Tensor, labels: Tensor, strength: float) -> Tensor:
    """Fit logistic regression with balanced classes: coefficients and intercept, [E+1] float64.

    Minimises ``|w|² / 2 + C Σ weight_i loss_i`` with weights ``X / (2 X_class)``.

    Args:
        inputs: [X, E].
        labels: [X], 1 or 0.
        strength: C.
    """
    inputs, labels = inputs.detach().double().clone(), labels.double()
    share = torch.where(labels == 1, labels.mean(), 1 - labels.mean())
    scale = strength / (2 * share)
    weights = torch.zeros(inputs.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=500, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.binary_cross_entropy_with_logits(
            logits(inputs, weights), labels, weight=scale, reduction="sum"
        )
        value = loss + weights[:-1].square().sum() / 2
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(objective)
    return weights.detach()


def logits(inputs: Tensor, weights: Tensor) -> Tensor:
    """Compute the logits [X] of inputs [X, E] by coefficients and intercept [E+1]."""
    return inputs.double() @ weights[:-1] + weights[-1]
