"""
What to tell the user of an error that is no bug: of the disk, of memory, of a missing package.
"""

import errno

from longrope.errors import UserError, one_line
from longrope.files import is_disk_full
from longrope.memory import is_out_of_memory

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
# What is at a path is of another kind, or cannot be had: the machine's, no bug.
IN_THE_WAY = (
    errno.EEXIST, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG,
    errno.ENOTDIR, errno.ENOTEMPTY,
)  # fmt: skip
OPTIONAL = ("datasets", "gguf", "matplotlib", "mlflow", "pandas", "sentencepiece")


def what_to_mend(error: Exception) -> str | None:
    """What to tell the user of an error that is no bug; None if it is one."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in OPTIONAL:
        return f'this needs the package {error.name!r}: pip install "longrope[workflow]"'
    if is_disk_full(error):
        return f"no room on the disk ({one_line(error)}): make some and run the stage again"
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED:
        return f"{one_line(error)}: the file system does not allow it; run the stage where it does"
    if isinstance(error, OSError) and error.errno in IN_THE_WAY:
        path = error.filename2 or error.filename or "a file"
        return f"{path}: {error.strerror}: name another path, or mend what is there"
    if is_out_of_memory(error):
        said = one_line(error, 200)
        return (
            f"out of memory ({said}): `longrope plan` says what every job needs, docs/memory.md"
            " what can be lowered"
        )
    return None
