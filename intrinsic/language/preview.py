"""What a dry run shows: the prompt, and the expected number of requests and their cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from firstlight.intrinsic.language.limits import CHARACTERS_OF_A_TOKEN, Limits


def describe_requests(
    messages: Sequence[Mapping[str, str]],
    *,
    what: str,
    seen: int,
    steps: int,
    batch_size: int,
    answer_tokens: int,
    limits: Limits,
    before: int = 0,
) -> str:
    """Describe the requests that a run would send.

    Args:
        messages: of the first request.
        what: plural of what is asked for, such as "sentences".
        seen: how many of them a random agent met.
        steps: in so many environment steps.
        batch_size: of them in a request.
        answer_tokens: of the answer to one of them.
        limits: of the run; the prices are used.
        before: items that are asked for at the start, to calibrate.
    """
    sent = sum(len(message["content"]) for message in messages) // CHARACTERS_OF_A_TOKEN

    def cost(items: int) -> str:
        requests = -(-items // batch_size)
        tokens = requests * sent, items * answer_tokens
        text = f"{requests:,} requests, about {tokens[0]:,} tokens sent and {tokens[1]:,} answered"
        if limits.input_price is None and limits.output_price is None:
            return f"{text}; give input_price and output_price to see the cost"
        return f"{text}, cost {limits.price(*tokens):.4g}"

    shown = [f"--- {message['role']}\n{message['content']}" for message in messages]
    lines = [
        f"--- a random agent met {seen:,} {what} in {steps:,} steps: {cost(seen)}",
        f"--- each further 1,000 {what}: {cost(1000)}",
    ]
    if before:
        lines.append(
            f"--- at the start, to calibrate, {before:,} labelled examples: {cost(before)}"
        )
    bounds = {"max_calls": limits.calls, "max_tokens": limits.tokens, "max_cost": limits.cost}
    found = ", ".join(f"{name} {value:,}" for name, value in bounds.items() if value is not None)
    lines.append(f"--- limits of a run: {found or 'none, give max_calls, max_tokens or max_cost'}")
    return "\n".join([*shown, *lines])
