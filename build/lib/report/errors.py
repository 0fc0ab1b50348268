"""The one error that is not ours."""


class UserError(ValueError):
    """A user error; the message is the whole answer."""
