"""What is left of sources after their budgets, and what each of them then contributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from firstlight.envs.types import Rollout
from firstlight.intrinsic.mixer import segments as rows
from firstlight.intrinsic.mixer.combine import Combine, JoiningCombine, Joint, Stream
from firstlight.intrinsic.mixer.terms import Budget, Term


def spend(
    asked: Mapping[str, Tensor],
    weight: Mapping[str, float],
    terms: Mapping[str, Term],
    combine: Combine,
    rollout: Rollout,
    *,
    store: bool = False,
) -> dict[str, Tensor]:
    """Sources [T, N] after their budgets.

    Budgets that look at the others come last, and are told what those without one contribute. Of
    sources that are joined into one bonus such a budget holds the bonus, by way of its own source.

    Args:
        asked: source name to [T, N], those of weight 0 left out.
        weight: of each source.
        terms: of each source.
        combine: which knows what is joined.
        rollout: of the same steps.
        store: let budgets remember what they counted.
    """
    out = dict(asked)

    def held(budget: Budget, values: Tensor, rest: Tensor | None) -> Tensor:
        given = budget(values, rollout, rest)
        if store:
            budget.update(values, rollout, rest)
        return given

    for name in asked:
        for budget in terms[name].budgets:
            if not budget.relative:
                out[name] = held(budget, out[name], None)
    relative = {name: [b for b in terms[name].budgets if b.relative] for name in asked}
    if not any(relative.values()):
        return out
    joint = joint_of(combine, out, weight)
    together = () if joint is None else joint.names
    rest = torch.zeros((), device=rollout.device)
    for name in asked:
        if name not in together and not relative[name]:
            rest = rest + abs(weight[name]) * rows.mean(out[name].abs(), rollout)
    if joint is not None and not any(relative[name] for name in together):
        rest = rest + rows.mean(joint.bonus.abs(), rollout)
    for name in asked:
        for budget in relative[name]:
            if name in together:
                joint = joint_of(combine, out, weight)
                assert joint is not None
                given = held(budget, joint.bonus, rest)
                kept = torch.where(joint.bonus != 0, given / joint.bonus, 1.0).clamp(min=0)
                out[name] = out[name] * kept ** (1 / joint.degree)
            else:
                out[name] = held(budget, out[name], rest / abs(weight[name]))
    return out


def joint_of(
    combine: Combine, scaled: Mapping[str, Tensor], weight: Mapping[str, float]
) -> Joint | None:
    """What the combine makes of sources [T, N] that it does not add; None if it adds all."""
    return combine.joint(scaled, weight) if isinstance(combine, JoiningCombine) else None


def contributions(
    scaled: Mapping[str, Tensor],
    weight: Mapping[str, float],
    combine: Combine,
    streams: Sequence[Stream],
    advantage_weight: Tensor,
    rollout: Rollout,
) -> dict[str, Tensor]:
    """What each source adds to what is learnt from, [T, N], so that sizes are comparable.

    Its weighted values. Sources that are joined have equal parts in their bonus, for each enters
    with the same power. In a stream of its own that is normalised a source has the size of the
    stream's advantage weight.

    Args:
        scaled: source name to [T, N], those of weight 0 left out.
        weight: of each source.
        combine: which knows what is joined.
        streams: the K streams; one that is normalised and named like a source is its own.
        advantage_weight: [K].
        rollout: of the same steps.
    """
    out = {name: values * weight[name] for name, values in scaled.items()}
    if joint := joint_of(combine, scaled, weight):
        out |= {name: joint.bonus / len(joint.names) for name in joint.names}
    for stream, own in zip(streams, advantage_weight, strict=True):
        if stream.normalize and stream.name in out:
            values = scaled[stream.name]
            size = rows.mean(values.abs(), rollout)
            out[stream.name] = own * values / torch.where(size > 0, size, 1.0)
    return out
