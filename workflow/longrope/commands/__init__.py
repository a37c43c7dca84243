"""
The sub-commands, a module for each group of them: what each takes, and what it does with it.

A module's `add_to` adds the parsers of its commands; a command imports what it needs when it is
run, so that `longrope --help` loads nothing heavy.
"""
