"""Show and correct the labels of a store: ``firstlight-annotate show runs/NAME``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstlight.scripts.benchmarks.options import (
    Parser,
    nonempty,
    parse_options,
    positive_integer,
)
from firstlight.scripts.errors import BadInputError, report_errors, suggestion

if TYPE_CHECKING:
    from firstlight.intrinsic.language.label_listing import LabelFilter
    from firstlight.intrinsic.language.store import LabelStore

USAGE = """firstlight-annotate shows the labels that judges gave to texts, and corrects them.

  firstlight-annotate show STORE [limit=20] [order=newest|doubtful] [FILTER]
      counts by judge, prompt and label, and the labels of a filter
  firstlight-annotate page STORE [port=PORT]
      a page in your browser, on this machine only, to look at labels and correct them
  firstlight-annotate correct STORE [FILTER]
      the same in the terminal, one text after the other, doubtful ones first
  firstlight-annotate relabel STORE judge=embedding|rule|llm [family=FAMILY] [goal=GOAL]
                      [url=URL] [llm=NAME] [request_size=8] [FILTER]
      ask a judge again for the texts of a filter; without one for all
  firstlight-annotate export STORE FILE
  firstlight-annotate import STORE FILE
      all labels as JSON lines; an import makes the store if there is none

STORE is a run directory, a folder of firstlight-motif, or an SQLite file of labels.

FILTER, any of:
  text    part of a text
  label   helpful, unhelpful, unclear; of a pair of texts first, second, tie
  model   name of a judge; person for what persons corrected
  prompt  beginning of a prompt's hash

A person's label counts in place of every judge's, in the next run and within a second or two in one
that is under way. docs/llm_feedback.md has more.
"""

FILTER: dict[str, Parser] = dict.fromkeys(("text", "label", "model", "prompt"), nonempty)
JUDGE: dict[str, Parser] = dict.fromkeys(("judge", "family", "goal", "url", "llm"), nonempty)
OPTIONS: dict[str, dict[str, Parser]] = {
    "show": {"limit": positive_integer, "order": nonempty, **FILTER},
    "page": {"port": positive_integer},
    "correct": FILTER,
    "relabel": {**JUDGE, "request_size": positive_integer, **FILTER},
    "export": {},
    "import": {},
}
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys((*FILTER, "judge", "family", "url", "llm"), ""),
    "goal": "default",
    "request_size": 8,
    "limit": 20,
    "order": "newest",
    "port": 0,
}
WITH_FILE = ("export", "import")


def find_store(word: str) -> Path:
    """Find the label store that a word of the command line names.

    A run directory has its own, or the one that its config shares with other runs.

    Raises:
        BadInputError: if there is none.
    """
    from firstlight.intrinsic.language.choices import STORE

    path = Path(word)
    if path.is_file():
        return path
    if (path / STORE).is_file():
        return path / STORE
    shared = _shared_store(path)
    if shared is not None and shared.is_file():
        return shared
    if path.is_dir():
        raise BadInputError(f"{path} has no label store: expected the file {STORE} in it")
    raise BadInputError(f"{path} is neither a label store nor a run directory")


def _shared_store(run: Path) -> Path | None:
    from omegaconf import DictConfig, OmegaConf

    config = OmegaConf.load(run / "config.yaml") if (run / "config.yaml").is_file() else None
    modules = OmegaConf.select(config, "intrinsic") if isinstance(config, DictConfig) else None
    nodes = modules.values() if isinstance(modules, DictConfig) else ()
    found = [node.get("store") for node in nodes if isinstance(node, DictConfig)]
    paths = [Path(path) for path in found if path]
    return paths[0] if paths else None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[LabelStore]:
    """Open a label store, and close it at the end.

    Raises:
        BadInputError: if the file is something else.
    """
    import sqlite3

    from firstlight.intrinsic.language.store import LabelStore

    try:
        store = LabelStore(path)
    except sqlite3.DatabaseError as error:
        raise BadInputError(f"{path} is no label store: {error}") from error
    try:
        yield store
    finally:
        store.close()


def label_filter_of(options: Mapping[str, Any]) -> LabelFilter:
    """Make the filter of a command line.

    Raises:
        BadInputError: for an unknown label or order.
    """
    from firstlight.intrinsic.language.label_listing import KINDS, ORDERS, LabelFilter

    for key, known in (("label", ["", *KINDS]), ("order", [*ORDERS])):
        if (value := options.get(key, known[0])) not in known:
            raise BadInputError(f"{key}={value} is unknown{suggestion(value, filter(None, known))}")
    return LabelFilter(**{key: options[key] for key in FILTER})


def show(store: LabelStore, options: Mapping[str, Any]) -> None:
    """Print counts and labels."""
    from firstlight.scripts.labels.listing import print_labels

    print_labels(store, label_filter_of(options), options["order"], options["limit"])


def correct(store: LabelStore, options: Mapping[str, Any]) -> None:
    """Ask a person about texts, in the terminal."""
    from firstlight.scripts.labels.terminal import correct_in_terminal

    correct_in_terminal(store, label_filter_of(options))


def page(store: LabelStore, options: Mapping[str, Any]) -> None:
    """Serve the page until Ctrl-C."""
    from firstlight.scripts.labels.page import serve

    serve(store, options["port"])


def relabel(store: LabelStore, options: Mapping[str, Any]) -> None:
    """Ask a judge again."""
    from firstlight.scripts.labels.relabel import ask_again

    ask_again(store, label_filter_of(options), options)


def export_labels(path: Path, file: Path) -> None:
    """Write the labels of a store to a file of JSON lines."""
    with opened(path) as store:
        try:
            count = store.write_jsonl(file)
        except OSError as error:
            raise BadInputError(f"cannot write {file}: {error.strerror}") from error
    print(f"wrote {count} labels to {file}")


def import_labels(path: Path, file: Path) -> None:
    """Read labels of a file of JSON lines into a store."""
    if not file.is_file():
        raise BadInputError(f"there is no file {file}")
    with opened(path) as store:
        try:
            count = store.read_jsonl(file)
        except (OSError, ValueError) as error:
            raise BadInputError(f"{file}: {error}") from error
    print(f"read {count} labels from {file} into {path}")


def import_target(word: str) -> Path:
    """Find the store for an import; one that does not exist is made if its folder does.

    Raises:
        BadInputError: if there is no folder for it.
    """
    from firstlight.intrinsic.language.choices import STORE

    path = Path(word)
    if path.is_dir():
        return path / STORE if _shared_store(path) is None else find_store(word)
    if not path.parent.is_dir():
        raise BadInputError(f"there is no folder {path.parent}")
    return path


ACTIONS: dict[str, Callable[[LabelStore, Mapping[str, Any]], None]] = {
    "show": show,
    "page": page,
    "correct": correct,
    "relabel": relabel,
}


def run(words: Sequence[str], options: Mapping[str, Any]) -> None:
    """Run one action.

    Args:
        words: the action, the store, and a file for ``export`` and ``import``.
        options: of that action.
    """
    action, *rest = words
    expected = ["STORE", "FILE"] if action in WITH_FILE else ["STORE"]
    if len(rest) != len(expected):
        raise BadInputError(
            f"firstlight-annotate {action} takes {' '.join(expected)}, and got "
            f"{' '.join(rest) or 'nothing'}"
        )
    if action == "export":
        export_labels(find_store(rest[0]), Path(rest[1]))
    elif action == "import":
        import_labels(import_target(rest[0]), Path(rest[1]))
    else:
        with opened(find_store(rest[0])) as store:
            ACTIONS[action](store, {**options, "source": rest[0]})


@report_errors
def main() -> None:
    """Run one action, or print the usage."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    words = [word for word in arguments if "=" not in word]
    action = words[0] if words else ""
    if action not in OPTIONS:
        what = f"{action!r} is no action" if action else "give an action"
        raise BadInputError(f"{what} of firstlight-annotate{suggestion(action, OPTIONS)}")
    run(words, parse_options(arguments, f"firstlight-annotate {action}", OPTIONS[action], DEFAULTS))


if __name__ == "__main__":
    main()
