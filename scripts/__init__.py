"""The command-line programs, and the only code that reads `firstlight.conf`."""

if __name__ != "firstlight.scripts":
    raise ImportError(
        f"{__name__!r} is a folder of the firstlight repository, not a package of its own: "
        "import it as 'firstlight.scripts'."
    )
