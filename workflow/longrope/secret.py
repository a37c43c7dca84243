"""
Passwords and tokens, kept out of everything that is printed, logged, recorded or tracked.

A secret comes from the environment (a token of the hub, keys of an object store, the password of
an MLflow server) or within a URI. Other packages put it into their errors, and those end in logs
that people pass on. So what leaves this project passes through `hidden` first: errors at birth,
logs and records as they are written. It imports nothing heavy.
"""

import os
import re

MARK = "***"  # in its place
HOLDS_ONE = re.compile(  # names of environment variables
    r"(^|_)(TOKEN|PASSWORD|PASSWD|SECRET|SECRET_KEY|API_KEY|ACCESS_KEY|ACCESS_KEY_ID|CREDENTIALS)$",
    re.IGNORECASE,
)
SHORTEST = 6  # characters; anything shorter is also part of words that are none
IN_URI = re.compile(r"(?<=://)[^/\s'\"]+@")  # user and password
OF_HUB = re.compile(r"\bhf_(?:[a-z]+_)*[A-Za-z0-9]{8,}")


def hidden(text: str) -> str:
    """A text without the secrets that it may hold."""
    for value in _secrets():
        text = text.replace(value, MARK)
    return OF_HUB.sub(MARK, IN_URI.sub(f"{MARK}@", text))


def whole_words(text: str) -> int:
    """How much of a text that goes on can be shown: up to its last space, as what is hidden has
    none in it; nothing where a secret has."""
    if any(re.search(r"\s", value) for value in _secrets()):
        return 0
    return len(text) - len(re.split(r"\s", text)[-1])


def _secrets() -> list[str]:
    """The passwords and tokens in the environment."""
    return [
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST and HOLDS_ONE.search(name)
    ]


def hidden_in(value):
    """The same of every text in a JSON value."""
    match value:
        case str():
            return hidden(value)
        case dict():
            return {hidden_in(key): hidden_in(each) for key, each in value.items()}
        case list() | tuple():
            return [hidden_in(each) for each in value]
        case _:
            return value
