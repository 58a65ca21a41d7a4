"""Words of the command line: abbreviations, and the nearest one to a mistyped word."""

from __future__ import annotations

from collections.abc import Collection

from manager.cli.errors import usage


def nearest(word: str, known: Collection[str]) -> str | None:
    """Give the known word that `word` was probably meant to be."""
    from difflib import get_close_matches  # only where something went wrong

    close = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return close[0] if close else None


def unknown(what: str, word: str, known: Collection[str]) -> str:
    """Write the sentence about an unknown word: the nearest one, and all that there are."""
    guess = nearest(word, known)
    hint = f"; did you mean '{guess}'?" if guess else ""
    listed = ", ".join(sorted(known)) or "none"
    return f"unknown {what} '{word}'{hint} (there are: {listed})"


def complete_word(word: str, known: Collection[str]) -> str:
    """Resolve an exact or uniquely abbreviated word; raises CliError otherwise."""
    if word in known:
        return word
    candidates = sorted(name for name in known if name.startswith(word)) if word else []
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise usage(f"'{word}' is ambiguous: {', '.join(candidates)}")
    raise usage(unknown("word", word, known))
