"""``probpose``: one command line. Its commands are the entry points of the group ``probpose.commands``.

Every command is a module with ``register(subparsers)``, which adds a parser and sets its default ``run``: a function
from the parsed arguments to the exit status. So training can add commands although the run time never imports it.
The module's docstring is the text of its ``--help``.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from probpose_ros import __version__

GROUP = "probpose.commands"
FIRST_STEPS = """\
first steps:
  probpose doctor                what is installed, what is missing, the exact fix
  probpose run photo.jpg         people in a picture
  probpose COMMAND --help        what a command does, with examples
"""


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs to the width of the terminal, and shows those with indented lines (examples) as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(part if "\n  " in part else fill(part, width, indent) for part in paragraphs)


class Parser(argparse.ArgumentParser):
    """With that formatter; the parsers of the commands are of this class, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Nothing unknown is let through: a command's mistake is told by the command, not with the usage of all."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            alike = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions, 1)
            hint = f"; did you mean {alike[0]}?" if alike else ""
            told = f"not understood: {' '.join(unknown)}{hint} ({self.prog} --help shows what is)"
            self.exit(2, f"{self.prog}: error: {told}\n")
        return known, unknown


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status, 2 for a wrong input, told in one line."""
    args = make_parser().parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError) as error:
        if args.traceback:
            raise
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        if isinstance(error, FileExistsError) and error.filename:
            told = f"{error.filename}: exists already; choose another name"
        print(f"probpose: error: {told}", file=sys.stderr)
        if isinstance(error, ImportError):  # a library that is missing, or too old
            print("`probpose doctor` shows what is missing and how to install it", file=sys.stderr)
        return 2


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="probpose",
        description="People's keypoints with presence probability and uncertainty regions.",
        epilog=FIRST_STEPS,
    )
    parser.add_argument("--version", action="version", version=f"probpose {__version__}")
    parser.add_argument("--traceback", action="store_true", help="on an error, show where in the code it happened")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    # A dictionary: an installed package that is also the current folder is found twice.
    found = {entry_point.name: entry_point for entry_point in entry_points(group=GROUP)}
    if not found:
        parser.error("no commands found; install the package: pip install -e .")
    for name, entry_point in sorted(found.items()):
        try:
            register = entry_point.load()
        except ImportError as error:
            _register_unavailable(subparsers, name, error)
        else:
            register(subparsers)
            _explain(subparsers.choices[name], sys.modules[register.__module__].__doc__)
    return parser


def _explain(parser: argparse.ArgumentParser, docstring: str | None) -> None:
    """``probpose run``: people in an image ... -> People in an image ..., with everything below the first line."""
    text = inspect.cleandoc(docstring or "").partition(": ")[2]
    parser.description = parser.description or text[:1].upper() + text[1:] or None


def _register_unavailable(subparsers: argparse._SubParsersAction, name: str, error: ImportError) -> None:
    """The command stays in the list; called with whatever arguments, it tells what is missing."""

    def run(args: argparse.Namespace) -> int:
        raise error

    # No argument starts with this prefix, so all of them, --help too, are taken as they are.
    parser = subparsers.add_parser(name, help=f"not available: {error}", prefix_chars="\0", add_help=False)
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(run=run)


if __name__ == "__main__":
    sys.exit(main())
