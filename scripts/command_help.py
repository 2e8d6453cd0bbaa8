"""Text of a command's ``--help``: its groups of configs, and the composed config."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from firstlight.scripts.errors import CONF

HELP = ("--help", "-h")


def is_help(arguments: Sequence[str]) -> bool:
    """Whether `arguments` ask for our help; with another flag, such as --config-dir, Hydra's is.

    >>> is_help(["env=chain", "--help"]), is_help(["-h", "--config-dir=conf"]), is_help([])
    (True, False, False)
    """
    flags = [argument for argument in arguments if argument.startswith("-")]
    return bool(flags) and set(flags) <= set(HELP)


def help_text(config_name: str, summary: str, overrides: Sequence[str]) -> str:
    """Describe a command. Hydra's own help copies its config sources for each folder.

    Args:
        config_name: of the command, in ``conf/``.
        summary: sentence on what the command does.
        overrides: of the command line; the config is shown with them.
    """
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        config = compose(config_name, list(overrides))
    groups = "\n".join(f"{group}: {', '.join(names)}" for group, names in config_groups().items())
    return f"""{summary}

== Configuration groups ==
Choose from each with GROUP=NAME:

{groups}

== Config ==
Change a value with KEY=VALUE:

{OmegaConf.to_yaml(config).rstrip()}

Flags of Hydra, such as --multirun and --config-dir, are shown with --hydra-help."""


def config_groups() -> dict[str, list[str]]:
    """Names of the configs in each folder of ``conf/``, by the folder's path."""
    groups: dict[str, list[str]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        if path.parent != CONF:
            groups.setdefault(path.parent.relative_to(CONF).as_posix(), []).append(path.stem)
    return groups
