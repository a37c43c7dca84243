"""The one exception that means "the user can mend this"; it imports nothing heavy."""

from longrope.secret import hidden


class UserError(ValueError):
    """Something that a user or a file caused: what was found, the rule it breaks, the way out.

    The command line prints it in one line and exits with 1; every other exception is a bug and
    shows its traceback. What others said, and is part of the message, may hold a password: hidden.
    """

    def __init__(self, message: str) -> None:
        super().__init__(hidden(message))


def unknown_name(kind: str, name: str, known) -> UserError:
    """The error for a name that is none of `known`; lists them all."""
    return UserError(f"unknown {kind} {name!r}: known are {', '.join(sorted(known))}")
