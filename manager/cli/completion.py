"""`vr completion SHELL`: scripts that know all words, and ask `vr` itself for the routers' names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manager.cli.errors import Exit
from manager.cli.registry import COMMANDS

if TYPE_CHECKING:
    from manager.cli.main import Request

# The names come from routers.json, which anybody may read and which outlives the manager.
_NAMES = r"""sed -n 's/.*"name": *"\([^"]*\)".*/\1/p' "${ANABRANCH_RUN_DIR:-/run/anabranch}/routers.json" 2>/dev/null"""

_BASH = """# bash completion for vr; load it with: source <(vr completion bash)
_vr() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} line="${{COMP_WORDS[*]:1:COMP_CWORD-1}}"
    case $line in
{cases}
    esac
}}
complete -o default -F _vr vr
"""

_ZSH = """#compdef vr
# zsh completion for vr; load it with: source <(vr completion zsh)
autoload -U +X bashcompinit && bashcompinit
{bash}"""

_FISH = """# fish completion for vr; load it with: vr completion fish | source
complete -c vr -f
{lines}
"""


def completion(request: Request) -> tuple[None, Exit]:
    """Print the script."""
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[request["shell"]](), end="")
    return None, Exit.OK


def _following() -> dict[str, list[str]]:
    """Map words typed so far to those that may follow."""
    table: dict[str, list[str]] = {}
    for command in COMMANDS:
        for position, word in enumerate(command.words):
            options = table.setdefault(" ".join(command.words[:position]), [])
            if word not in options:
                options.append(word)
    return table


def _bash() -> str:
    cases = [
        f'    "{prefix}") mapfile -t COMPREPLY < <(compgen -W "{" ".join(words)}" -- "$word") ;;'
        for prefix, words in _following().items()
    ]
    for command in COMMANDS:
        options = [flag for argument in command.arguments if argument.is_option for flag in argument.name.split()]
        if command.arguments and command.arguments[0].values == "routers":
            cases.append(f'    "{command.name}") mapfile -t COMPREPLY < <(compgen -W "$({_NAMES})" -- "$word") ;;')
        if options:
            cases.append(
                f'    "{command.name} "*) mapfile -t COMPREPLY < <(compgen -W "{" ".join(options)}" -- "$word") ;;'
            )
    return _BASH.format(cases="\n".join(cases))


def _zsh() -> str:
    return _ZSH.format(bash=_bash())


def _fish() -> str:
    lines = []
    for command in COMMANDS:
        if len(command.words) == 1:
            lines.append(f"complete -c vr -n __fish_use_subcommand -a {command.words[0]} -d '{command.help}'")
        else:
            *before, last = command.words
            seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in before)
            lines.append(f"complete -c vr -n '{seen}' -a {last} -d '{command.help}'")
        if command.arguments and command.arguments[0].values == "routers":
            lines.append(f"complete -c vr -n '__fish_seen_subcommand_from {command.words[-1]}' -a '({_NAMES})'")
    groups = sorted({command.words[0] for command in COMMANDS if len(command.words) > 1})
    lines += [f"complete -c vr -n __fish_use_subcommand -a {first}" for first in groups]
    middles = dict.fromkeys(command.words[:2] for command in COMMANDS if len(command.words) > 2)
    lines += [f"complete -c vr -n '__fish_seen_subcommand_from {first}' -a {second}" for first, second in middles]
    return _FISH.format(lines="\n".join(lines))
