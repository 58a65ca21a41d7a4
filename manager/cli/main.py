"""The command `vr`: finds the command of the words, runs it, prints JSON or text.

    argv -> global options -> words (abbreviations) -> argparse of that command -> run -> render

Text is always rendered from the data that `-j` prints.  Exit codes: see errors.Exit.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from manager.cli.errors import CliError, Exit, usage
from manager.cli.registry import COMMANDS, Argument, Command, load
from manager.cli.words import complete_word

DEFAULT_RUN_DIR: Final = "/run/anabranch"
_HELP: Final = frozenset({"-h", "--help"})
_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # a disk is full or broken
_TYPES: Final = {"str": str, "int": int, "float": float}


@dataclass(frozen=True)
class Request:
    """What a command's function gets."""

    run_dir: Path
    json: bool
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Give an argument by name."""
        return self.arguments[name]


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Complain in our way: JSON where it was asked for."""
        raise usage(f"{message}\n{self.format_usage().strip()}")


def main(argv: list[str] | None = None) -> int:
    """Run one command; give the exit code."""
    try:
        return _answered(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return 130  # as a shell counts SIGINT
    except BrokenPipeError:  # the reader (head, less) has gone
        _drop_output()
        return Exit.OK
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _drop_output()
        print(f"vr: the answer cannot be written: {error.strerror}", file=sys.stderr)  # JSON would go the same way
        return Exit.NEGATIVE


def _answered(words: list[str]) -> int:
    """Run the command and write all that it says, even where that is a complaint."""
    as_json = False
    try:
        run_dir, as_json, words = _global_options(words)
        code = _dispatch(run_dir, as_json, words)
    except CliError as error:
        _report(error, as_json)
        code = error.code
    if sys.stdout is not None:  # it may be closed
        sys.stdout.flush()
    return code


def _global_options(words: list[str]) -> tuple[Path, bool, list[str]]:
    """Take the options off that are valid anywhere."""
    run_dir = os.environ.get("ANABRANCH_RUN_DIR") or DEFAULT_RUN_DIR
    end = words.index("--") if "--" in words else len(words)  # what follows belongs to another program
    as_json = "-j" in words[:end] or "--json" in words[:end]
    rest: list[str] = []
    pending = iter(words[:end])
    for word in pending:
        if word == "--run-dir":
            value = next(pending, None)
            if value is None:
                raise usage("--run-dir needs a directory")
            run_dir = value
        elif word.startswith("--run-dir="):
            run_dir = word.partition("=")[2]
        elif word not in ("-j", "--json"):
            rest.append(word)
    return Path(run_dir), as_json, rest + words[end:]


def _dispatch(run_dir: Path, as_json: bool, words: list[str]) -> int:
    if not words or words[0] in _HELP or words[0] == "help":
        return _help(tuple(words[1:]), as_json, asked=words)
    if words[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"vr {version('anabranch')}")
        return Exit.OK
    found = find(words)
    if found is None:
        return _help(tuple(word for word in words if not word.startswith("-")), as_json, asked=_HELP & set(words))
    command, rest = found
    request = Request(run_dir, as_json, vars(_parsed(command, rest)))
    result = load(command.run)(request)
    data, code = result if isinstance(result, tuple) else (result, Exit.OK)
    if data is not None:
        _print(command, data, as_json)
    return int(code)


def _help(prefix: tuple[str, ...], as_json: bool, *, asked: Collection[str]) -> int:
    """List the commands: as an answer, or as a hint to one who has not named any."""
    if not asked and as_json:
        raise usage(f"more words are needed after 'vr {' '.join(prefix)}'" if prefix else "a command is needed")
    print(overview(prefix))
    return Exit.OK if asked else Exit.USAGE


def find(words: list[str]) -> tuple[Command, list[str]] | None:
    """Find the command that the first words mean, and what is left; None: more words are needed."""
    resolved: tuple[str, ...] = ()
    for position in range(len(words) + 1):
        for command in COMMANDS:
            if command.words == resolved:
                return command, words[position:]
        if position == len(words) or words[position].startswith("-"):
            return None
        following = {c.words[position] for c in COMMANDS if c.words[:position] == resolved and len(c.words) > position}
        resolved += (complete_word(words[position], following),)
    return None


def overview(prefix: tuple[str, ...] = ()) -> str:
    """List the commands that begin with these words, one a line."""
    wanted = [
        command for command in COMMANDS if all(w.startswith(p) for w, p in zip(command.words, prefix, strict=False))
    ]
    wanted = wanted or list(COMMANDS)
    width = max(len(command.usage()) for command in wanted if len(command.usage()) < 44)
    lines = ["usage: vr [--run-dir DIR] [-j] COMMAND ...", ""]
    for command in wanted:
        call = command.usage()
        if len(call) > width:
            lines += [f"  {call}", f"  {'':{width}}  {command.help}"]
        else:
            lines.append(f"  {call:{width}}  {command.help}")
    lines += [
        "",
        "-j prints JSON.  Words may be abbreviated: vr sh int red.  Exit: 0 ok, 1 no, 2 usage, 3 unreachable.",
    ]
    return "\n".join(lines)


def _parsed(command: Command, words: list[str]) -> argparse.Namespace:
    """Parse the arguments of a command; options may stand between the words of a filter."""
    parser = _parser(command)
    intermixed = any(argument.type == "words" for argument in command.arguments)
    return parser.parse_intermixed_args(words) if intermixed else parser.parse_args(words)


def _parser(command: Command) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"vr {command.name}", description=command.help, allow_abbrev=False)
    for argument in command.arguments:
        _add(parser, argument)
    return parser


def _add(parser: argparse.ArgumentParser, argument: Argument) -> None:
    options: dict[str, Any] = {"help": argument.help}
    if argument.type == "flag":
        parser.add_argument(*argument.name.split(), action="store_true", **options)
        return
    if argument.type == "rest":
        parser.add_argument(argument.name, nargs=argparse.REMAINDER, metavar=argument.metavar, **options)
        return
    if argument.type == "words":
        parser.add_argument(argument.name, nargs="*", metavar=argument.metavar, **options)
        return
    options |= {"type": _TYPES[argument.type], "default": argument.default, "choices": argument.choices}
    if argument.metavar or not argument.choices:
        options["metavar"] = argument.metavar or argument.name.upper()
    if argument.optional:
        options["nargs"] = "?"
    parser.add_argument(*argument.name.split(), **options)


def _print(command: Command, data: Any, as_json: bool) -> None:
    text = json.dumps(data, indent=2) if as_json or command.render is None else load(command.render)(data)
    if text:
        print(text, flush=True)


def _drop_output() -> None:
    """Forget what could not be written: the interpreter must not complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _report(error: CliError, as_json: bool) -> None:
    if as_json:
        print(json.dumps(error.as_json()))
    else:
        print(f"vr: {error.message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
