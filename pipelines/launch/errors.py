"""Errors of the launchers; the message is one line that says what the user should do."""

from vdm_lib.errors import VdmError


class LaunchError(VdmError):
    """A job that could not be run where it was asked to run."""
