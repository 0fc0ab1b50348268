"""What can go wrong, and who handles it."""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class UsageError(Exception):
    """The command line, the environment or the catalogue makes no sense; exit status 2."""


class GetDataError(Exception):
    """A data set cannot be had; the message is for the user."""


class AddressFailed(Exception):
    """The address did not give the file; the next one may."""


class Unreachable(AddressFailed):
    """The host cannot be connected to."""


class ConnectionLost(AddressFailed):
    """The transfer broke off; what has arrived is kept."""


class WrongFile(AddressFailed):
    """The address gave something else, which must be neither kept nor continued."""
