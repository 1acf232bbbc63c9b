"""The errors a user can cause, each one line: what is wrong, where, and the cure."""


class UserError(Exception):
    """Wrong input. The command line prints the message as one line and exits with code 2."""


class BadImageError(UserError):
    """An image file that cannot be read or decoded.

    Args:
        path: The file.
        reason: Why it failed, as the decoder said it.
    """

    def __init__(self, path: str, reason: str):
        self.path, self.reason = path, reason
        super().__init__(
            f"cannot decode image {path}: {reason}; remove or repair the file, "
            "or set data.max_bad to skip up to that many broken files"
        )
