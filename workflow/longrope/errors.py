"""
The one exception that means "the user can mend this", and how it tells what others said. It imports
nothing heavy.
"""

import difflib
from collections.abc import Iterable

from longrope.secret import hidden


class UserError(ValueError):
    """Something that a user or a file caused: what was found, the rule it breaks, the way out.

    The command line prints it in one line and exits with 1; every other exception is a bug and
    shows its traceback. What others said, and is part of the message, may hold a password: hidden.
    """

    def __init__(self, message: str) -> None:
        super().__init__(hidden(message))


def one_line(error: BaseException, most: int = 300) -> str:
    """What an error of others says, in one line of at most so many characters, without secrets:
    they are hidden before it is cut, or the rest of one would remain."""
    text = hidden(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


def unknown_name(kind: str, name: str, known) -> UserError:
    """The error for a name that is none of `known`; lists them all, and which is near."""
    names = sorted(known)
    return UserError(f"unknown {kind} {name!r}: known are {', '.join(names)}{meant(name, names)}")


def meant(name: str, known: list[str]) -> str:
    """The question whether the nearest of `known` was meant; empty if none is near."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Which of `known` is spelt nearly like a name, if any."""
    return next(iter(difflib.get_close_matches(str(name), sorted(known), n=1)), None)
