"""Errors that are the user's to mend: one message on stderr, no traceback, exit status 2."""


class UserError(Exception):
    """What was found, what was expected, how to fix it. Raised before any weights load where that is possible."""


class ConfigError(UserError):
    """A configuration key or value that cannot be used."""


class DataError(UserError):
    """Input data that cannot be used: ``PATH:LINE: FIELD: found …; expected …; fix: …``.

    refused: where it is for rows, all of them (a ``records.refused.RefusedRows``).
    """

    def __init__(self, message: str, refused=None):
        super().__init__(message)
        self.refused = refused


class TrainingError(UserError):
    """Training that cannot go on (NaN or infinite loss): names the step, the records and the last good checkpoint."""
