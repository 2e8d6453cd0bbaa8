"""Kernels of `GenomePolicy`: small networks whose weights are rows of genomes."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def respond(genome, sizes, values, spare):
    """Replace the inputs of one network by its outputs.

    Each layer computes ``2 sigmoid(z) - 1``, which is ``tanh(z / 2)``, of a product with its
    weights and one bias for the whole layer.

    Args:
        genome: [G] float64; for each layer its weights [inputs, outputs] in C order, then its bias.
        sizes: [L + 1] int64, widths of inputs, hidden layers and outputs.
        values: float64, at least as long as the widest layer; inputs at first, then outputs.
        spare: of the same length.
    """
    at = 0
    for layer in range(len(sizes) - 1):
        inputs, outputs = sizes[layer], sizes[layer + 1]
        bias = genome[at + inputs * outputs]
        for j in range(outputs):
            total = bias
            for i in range(inputs):
                total += values[i] * genome[at + i * outputs + j]
            spare[j] = math.tanh(0.5 * total)
        for j in range(outputs):
            values[j] = spare[j]
        at += inputs * outputs + 1


@njit(cache=True, nogil=True)
def respond_all(genomes, sizes, inputs, outputs):
    """Compute the outputs of many networks.

    Args:
        genomes: [B, G] float64, or [1, G] for one network that answers every input.
        sizes: see `respond`.
        inputs: [B, I] float64.
        outputs: [B, O] float64, written.
    """
    widest = 0
    for size in sizes:
        widest = max(widest, size)
    values, spare = np.empty(widest), np.empty(widest)
    for b in range(len(inputs)):
        values[: inputs.shape[1]] = inputs[b]
        respond(genomes[b if len(genomes) > 1 else 0], sizes, values, spare)
        outputs[b] = values[: outputs.shape[1]]
