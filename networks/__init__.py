"""Networks: encoders, cores, action distributions, initialisation, rebuildable specs."""

if __name__ != "firstlight.networks":
    raise ImportError(
        f"{__name__!r} is a folder of the firstlight repository, not a package of its own: "
        "import it as 'firstlight.networks'."
    )

from firstlight.networks.cores import GRU, LSTM, Core, Feedforward
from firstlight.networks.encoders import (
    MLP,
    Encoder,
    Grid,
    Impala,
    MultiInput,
    NetHack,
    ONINet,
    Pixel,
    TwinEncoder,
    TwinMLP,
    Words,
    auto,
)
from firstlight.networks.spec import rebuildable

__all__ = [
    "GRU",
    "LSTM",
    "MLP",
    "Core",
    "Encoder",
    "Feedforward",
    "Grid",
    "Impala",
    "MultiInput",
    "NetHack",
    "ONINet",
    "Pixel",
    "TwinEncoder",
    "TwinMLP",
    "Words",
    "auto",
    "rebuildable",
]
