"""Markdown sections on speed: throughput, stages, adapter, pools, modules, and the soak tests."""

from __future__ import annotations

import statistics
from typing import Any

from firstlight.scripts.report.markdown import markdown_table, provenance, span


def throughput(lines: list[dict[str, Any]]) -> str:
    """Table of training steps per second, from the lines of the latest measurement."""
    latest = {line["row"]: line for line in lines if line["commit"] == lines[-1]["commit"]}
    if not latest:
        return ""
    rates = {name: statistics.median(line["steps_per_second"]) for name, line in latest.items()}
    lean = [n for n in rates if n.startswith("Stable") and "Monitor" not in n]
    best = max(lean, key=rates.__getitem__)
    base = latest[best]["steps_per_second"]
    rows = []
    for name, line in latest.items():
        ratio = sorted(a / b for a, b in zip(line["steps_per_second"], base, strict=True))
        spread = f"{statistics.median(ratio):.2f} ({ratio[0]:.2f} to {ratio[-1]:.2f})"
        rows.append([name, f"{rates[name]:,.0f}", spread, f"`{line['command']}`"])
    first = next(iter(latest.values()))
    return "\n".join(
        [
            "## Training throughput",
            "",
            "PPO with separate tanh networks of 64-64 on the flattened view of EnvPool's "
            "DoorKey-8x8, 64 environments × 128 steps, 4 epochs, minibatch 2048, after three "
            "rollouts to warm up. The rows of *firstlight-train* have its default encoder, a count "
            "bonus and its logs, on our own DoorKey (`env.backend=native`, the default) and on "
            "EnvPool's. The rows of *firstlight* act in one half of the environments while the "
            "other steps. *Single-file PPO* is written for this comparison in the manner of "
            f"CleanRL's. Rows alternated, medians of {len(base)} rounds; the ratio is to "
            f"*{best}*, round by round. {first['hardware']}, commit {first['commit']}. "
            "Command: `firstlight-bench throughput`. GPU: not measured.",
            "",
            *markdown_table(["row", "steps/s", "ratio", "timed script"], rows),
            "",
        ]
    )


_RENAMED_STAGES = {"rate": "intrinsic", "adapt": "module_update"}
"""Names in measurements of version 0.1 to today's."""


def stages(lines: list[dict[str, Any]]) -> str:
    """Tables of steps per second and share of time by stage, one per setup."""
    lines = [{**line, "row": _RENAMED_STAGES.get(line["row"], line["row"])} for line in lines]
    latest = {(line["setup"], line["row"]): line for line in lines}
    if not latest:
        return ""
    parts = [
        "## Training time by stage",
        "",
        "One torch thread; medians (ranges) of rounds, after the first iterations. The stages and "
        "the rest (statistics, logs) make up all of training; environments alone, stepped with "
        "random actions through EnvPool's own interface and through ours, are a part of *collect*. "
        f"{provenance(latest.values())} GPU: not measured.",
        "",
    ]
    for setup in dict.fromkeys(name for name, _ in latest):
        mine = [line for (name, _), line in latest.items() if name == setup]
        rows = [
            [
                line["row"],
                span(line["steps_per_second"], "{:,.0f}"),
                span(line["share"], "{:.1%}"),
            ]
            for line in mine
        ]
        parts += [f"*{setup}*: {mine[-1]['about']}.", ""]
        parts += [*markdown_table(["row", "steps/s", "share of time"], rows), ""]
    return "\n".join(parts)


def sizes(lines: list[dict[str, Any]]) -> str:
    """Table of training steps per second by number of environments and width of the encoder."""
    latest = {(line["num_envs"], line["width"]): line for line in lines}
    if not latest:
        return ""
    counts, widths = (list(dict.fromkeys(key[i] for key in latest)) for i in (0, 1))
    rows = [
        [str(n), *(span(latest[n, w]["steps_per_second"], "{:,.0f}") for w in widths)]
        for n in counts
    ]
    head = ["environments", *(f"width {w}" for w in widths)]
    return "\n".join(
        [
            "## Training speed by size",
            "",
            "Environment steps per second of training on our own DoorKey-8x8 with the grid encoder "
            "and a count bonus, one torch thread; medians (ranges) of alternating rounds, after "
            f"the first iterations. {provenance(latest.values())} GPU: not measured.",
            "",
            *markdown_table(head, rows),
            "",
        ]
    )


def schedules(lines: list[dict[str, Any]]) -> str:
    """Table of training steps per second of PPO and APPO, by environment."""
    latest = {(line["env"], line["row"]): line for line in lines}
    if not latest:
        return ""
    rows = [
        [
            f"`env={env}`",
            name,
            span(line["steps_per_second"], "{:,.0f}"),
            span(line["per_processor_second"], "{:,.0f}"),
            span(line["ratio"], "{:.2f}"),
        ]
        for (env, name), line in latest.items()
    ]
    head = ["environment", "row", "steps/s", "steps per second of processor", "ratio to PPO"]
    return "\n".join(
        [
            "## Collecting while learning",
            "",
            "Environment steps per second of training with defaults, medians (ranges) of "
            "alternating rounds. PPO has rollouts of 128 steps where the row does not say 32, as "
            "APPO has, and so a quarter of the gradient steps for the same experience. "
            f"{provenance(latest.values())} GPU: not measured.",
            "",
            *markdown_table(head, rows),
            "",
        ]
    )


def asynchronous(lines: list[dict[str, Any]]) -> str:
    """Table of training steps per second of APPO, ours and Sample Factory's."""
    latest = {(line["task"], line["row"]): line for line in lines}
    if not latest:
        return ""
    rows = [
        [
            task,
            name,
            *_speeds(line),
            f"`{line['command']}`",
        ]
        for (task, name), line in latest.items()
    ]
    return "\n".join(
        [
            "## APPO against Sample Factory",
            "",
            "Environment steps per second of training on the CPU, medians (ranges) of alternating "
            "rounds, after the first iterations; the ratio is to the first row of the task, round "
            "by round. Sample Factory 2.1.1 steps Python's MiniGrid and NLE 1.3 (gymnasium 0.29, "
            "without NLE's pins); its defaults are two environments in each of two processes, and "
            "a GRU of 512. One epoch and minibatches of 1,024 are its defaults as well. The glyph "
            "network is the same in both (`peers/glyph_network.py`). "
            f"{provenance(latest.values())} GPU: not measured.",
            "",
            *markdown_table(["task", "row", "steps/s", "ratio", "timed script"], rows),
            "",
        ]
    )


def bonus_speed(lines: list[dict[str, Any]]) -> str:
    """Table of training speed with each bonus, relative to plain PPO."""
    latest = {line["row"]: line for line in lines}
    if not latest:
        return ""
    rows = [[name, *_speeds(line)] for name, line in latest.items()]
    return "\n".join(
        [
            "## Training speed with each bonus",
            "",
            "Environment steps per second of `env=minigrid/doorkey_8x8` with the default of each "
            "bonus, one torch thread; the ratio is to plain PPO, trained in turn with each. "
            f"{provenance(latest.values())} GPU: not measured.",
            "",
            *markdown_table(["bonus", "steps/s", "ratio to plain PPO"], rows),
            "",
        ]
    )


def annotation(lines: list[dict[str, Any]]) -> str:
    """Table of training speed while a language model labels texts, relative to asking nobody."""
    latest = {(line["env"], line["row"]): line for line in lines}
    if not latest:
        return ""
    rows = [
        [
            env,
            name,
            *_speeds(line),
            *(f"{line[key]:g}" if "labels" in line else "" for key in ("labels", "calls", "age")),
        ]
        for (env, name), line in latest.items()
    ]
    head = ["env", "row", "steps/s", "ratio", "labels", "requests", "seconds to a label"]
    return "\n".join(
        [
            "## Training while a language model labels texts",
            "",
            "ONI with the retrieval model, one torch thread; medians (ranges) of alternating "
            "rounds, after the first iteration. *off* is the same module that asks nobody, to "
            "which the ratio is, round by round. The remote endpoint is simulated. Labels and "
            "requests of the last round; the seconds are from a text's first sight to its label "
            "in use. "
            f"{provenance(latest.values())} GPU: not measured.",
            "",
            *markdown_table(head, rows),
            "",
        ]
    )


def adapter_overhead(lines: list[dict[str, Any]]) -> str:
    """Table of our adapter's speed relative to EnvPool, and training speed of MiniGrid's views."""
    latest = {line["row"]: line for line in lines}
    if not latest:
        return ""
    rows = [
        [
            name,
            span(line["steps_per_second"], "{:,.0f}") if "steps_per_second" in line else "",
            span(line["ratio"], "{:.2f}"),
            line["about"],
        ]
        for name, line in latest.items()
    ]
    return "\n".join(
        [
            "## Cost of the adapter and of MiniGrid's views",
            "",
            "One torch thread; medians (ranges) of alternating rounds. The "
            "first rows step environments with the same random actions and one EnvPool thread, "
            "raw and through our adapter; the others train, after the first iterations, and the "
            "ratio is to the first of them, round by round. "
            f"{provenance(latest.values())} GPU: not measured.",
            "",
            *markdown_table(["row", "trained steps/s", "ratio", "what"], rows),
            "",
        ]
    )


def pools(lines: list[dict[str, Any]]) -> str:
    """Table of NetHack steps per second by number of environments, and ratios to the peer."""
    latest = {(line["row"], line["num_envs"]): line for line in lines}
    if not latest:
        return ""
    sizes, names = (list(dict.fromkeys(key[i] for key in latest)) for i in (1, 0))
    rates = {key: statistics.median(line["steps_per_second"]) for key, line in latest.items()}
    best = {name: max(rates[name, size] for size in sizes) for name in names}
    rows = [
        [
            name,
            *(span(latest[name, size]["steps_per_second"], "{:,.0f}") for size in sizes),
            f"{best['pool'] / best[name]:.2f}",
            f"{min(rates['pool', n] / rates[name, n] for n in sizes):.2f} to "
            f"{max(rates['pool', n] / rates[name, n] for n in sizes):.2f}",
            latest[name, sizes[0]]["about"],
        ]
        for name in names
    ]
    head = ["row", *(f"{size} environments" for size in sizes), "pool, best against best"]
    return "\n".join(
        [
            "## NetHack in a pool of processes",
            "",
            "Environment steps per second under random actions, resets included, training not; "
            "NetHackScore-v0 with glyphs, blstats and message; medians (ranges) of rounds in which "
            "everything took its turn. The last ratios are the pool's to the row's at equal "
            f"numbers of environments. {provenance(latest.values())}",
            "",
            *markdown_table([*head, "at equal numbers", "what"], rows),
            "",
        ]
    )


def worlds(lines: list[dict[str, Any]]) -> str:
    """Table of steps per second of the worlds of our own."""
    latest = {line["row"]: line for line in lines}
    if not latest:
        return ""
    rows = [
        [
            f"`{name}`",
            *(span(line[key], "{:,.0f}") for key in ("steps_per_second", "per_processor_second")),
        ]
        for name, line in latest.items()
    ]
    (num_envs,) = {line["num_envs"] for line in latest.values()}
    load = max(line["load_average"] for line in latest.values())
    return "\n".join(
        [
            "## Worlds of our own",
            "",
            f"Environment steps per second under random actions, {num_envs} environments on one "
            "thread, resets included, training not; medians (ranges) of rounds in which each "
            "world took its turn. A second of processor time does not count what other processes "
            f"on the machine took; its load average was {load:g}. {provenance(latest.values())}",
            "",
            *markdown_table(["`env=`", "steps/s", "steps per second of processor time"], rows),
            "",
        ]
    )


def modules(lines: list[dict[str, Any]]) -> str:
    """Table of microseconds per environment step of each reward module and of a peer's."""
    latest = {line["row"]: line for line in lines}
    if not latest:
        return ""
    columns = [(f"{part}_us", "{:.2f}") for part in ("compute", "update", "mixer", "peer")]
    columns.append(("ratio", "{:.2f}"))
    rows = [
        [name, line["rollout"]]
        + [span(line[key], form) if key in line else "" for key, form in columns]
        + [f"`{line['peer_command']}`" if "peer_command" in line else ""]
        for name, line in latest.items()
    ]
    head = ["row", "rollout", "compute", "update", "mixer", "RLeXplore", "ratio"]
    return "\n".join(
        [
            "## Cost of the reward modules",
            "",
            "Microseconds per environment step on rollouts of a random agent, one torch thread, "
            "medians (ranges) of rounds, ours and the peer's in turn. The peer is RLeXplore "
            "(rllte-core 1.0.1): its `compute(sync=True)` computes, learns and scales, so the "
            "ratio is its time to our compute, update and mixer together, round by round: above "
            "1, ours is faster. *Equal widths*: our predictor has the two further layers of the "
            "published one; *equal work*: narrower layers, as many multiplications. Its "
            "pseudo-counts are another method than our counts, hence no ratio. "
            f"{provenance(latest.values())} GPU: not measured.",
            "",
            *markdown_table([*head, "the peer's script"], rows),
            "",
        ]
    )


def soak(lines: list[dict[str, Any]]) -> str:
    """Table of the latest run of each repeated test."""
    latest = {line["test"]: line for line in lines}
    if not latest:
        return ""
    known = ("test", "repeats", "passed", "seconds", "commit", "hardware")
    rows = []
    for test, line in latest.items():
        further = [f"{k.replace('_', ' ')} {v}" for k, v in line.items() if k not in known]
        passed = "yes" if line["passed"] else "**no**"
        seconds = f"{line['seconds']:.0f}"
        rows.append([f"`{test}`", f"{line['repeats']:,}", passed, seconds, ", ".join(further)])
    return "\n".join(
        [
            "## Soak",
            "",
            "Repeated tests, run in full: the latest run of each. "
            f"{provenance(latest.values(), 'make soak')} On the CPU; GPU: not measured.",
            "",
            *markdown_table(["test", "repeats", "passed", "seconds", "found"], rows),
            "",
        ]
    )


def _speeds(line: dict[str, Any]) -> list[str]:
    """Cells of a result line: steps per second, and the ratio to the row compared with."""
    return [span(line["steps_per_second"], "{:,.0f}"), span(line["ratio"], "{:.2f}")]
