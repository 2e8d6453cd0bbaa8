"""Apply each source's budgets, and compute what each source then contributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer import segments
from firstlight.intrinsic.mixer.combine import Combine, Stream
from firstlight.intrinsic.mixer.terms import Budget, Term


def apply_budgets(
    before_budget: Mapping[str, Tensor],
    weight: Mapping[str, float],
    terms: Mapping[str, Term],
    combine: Combine,
    rollout: Rollout,
    *,
    store: bool = False,
) -> dict[str, Tensor]:
    """Apply each source's budgets; returns source name to [T, N].

    Relative budgets are applied last and get the contribution of the sources without one. If a
    source with a relative budget is joined with others, the budget limits the joint bonus, by
    scaling that source.

    Args:
        before_budget: source name to [T, N], without sources of weight 0.
        weight: of each source.
        terms: of each source.
        combine: decides which sources are joined.
        rollout: of the same steps.
        store: also update the budgets' statistics.
    """
    out = dict(before_budget)

    def limited(budget: Budget, values: Tensor, rest: Tensor | None) -> Tensor:
        given = budget(values, rollout, rest)
        if store:
            budget.update(values, rollout, rest)
        return given

    for name in out:
        for budget in terms[name].budgets:
            if not budget.relative:
                out[name] = limited(budget, out[name], None)
    relative = {name: [b for b in terms[name].budgets if b.relative] for name in out}
    if not any(relative.values()):
        return out
    joint = combine.joint(out, weight)
    together = () if joint is None else joint.names
    rest = torch.zeros((), device=rollout.device)
    for name in out:
        if name not in together and not relative[name]:
            rest = rest + abs(weight[name]) * segments.mean(out[name].abs(), rollout)
    if joint is not None and not any(relative[name] for name in together):
        rest = rest + segments.mean(joint.bonus.abs(), rollout)
    for name in out:
        for budget in relative[name]:
            if name in together:
                joint = combine.joint(out, weight)
                assert joint is not None
                given = limited(budget, joint.bonus, rest)
                kept = torch.where(joint.bonus != 0, given / joint.bonus, 1.0).clamp(min=0)
                out[name] = out[name] * kept ** (1 / joint.degree)
            else:
                out[name] = limited(budget, out[name], rest / abs(weight[name]))
    return out


def contributions(
    scaled: Mapping[str, Tensor],
    weight: Mapping[str, float],
    combine: Combine,
    streams: Sequence[Stream],
    advantage_weight: Tensor,
    rollout: Rollout,
) -> dict[str, Tensor]:
    """Compute each source's contribution [T, N] to the learning signal, in comparable units.

    Usually its weighted values. Joined sources have equal parts of their bonus, because each enters
    with the same exponent. A source whose own stream is normalised is rescaled so that its mean
    absolute value is the stream's advantage weight.

    Args:
        scaled: source name to [T, N], without sources of weight 0.
        weight: of each source.
        combine: decides which sources are joined.
        streams: the K streams; a normalised one with the name of a source holds only that source.
        advantage_weight: [K].
        rollout: of the same steps.
    """
    out = {name: values * weight[name] for name, values in scaled.items()}
    if joint := combine.joint(scaled, weight):
        out |= {name: joint.bonus / len(joint.names) for name in joint.names}
    for stream, stream_weight in zip(streams, advantage_weight, strict=True):
        if stream.normalize and stream.name in out:
            values = scaled[stream.name]
            size = segments.mean(values.abs(), rollout)
            out[stream.name] = stream_weight * values / torch.where(size > 0, size, 1.0)
    return out
