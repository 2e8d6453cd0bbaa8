"""The configuration files that Hydra composes; data only."""

if __name__ != "firstlight.conf":
    raise ImportError(
        f"{__name__!r} is a folder of the firstlight repository, not a package of its own: "
        "import it as 'firstlight.conf'."
    )
