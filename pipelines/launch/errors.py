"""Errors of the launchers; the message is one line that says what the user should do."""

from vdm_lib.errors import VdmError

NO_CAPACITY = "no capacity for"
"""How the message begins when Google has no slice to give now; asking again later can help."""


class LaunchError(VdmError):
    """A job that could not be run where it was asked to run."""


class CallError(LaunchError):
    """A call of gcloud, ssh or scp that failed.

    Attributes:
        status: what kind of failure it was: a status of Google's API such as NOT_FOUND, or one of those that
            `gcloud.classify` adds.
    """

    def __init__(self, status: str, message: str) -> None:
        """Take the kind of failure and one line about it."""
        super().__init__(message)
        self.status = status
