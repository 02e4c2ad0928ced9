"""Errors whose message is one line for a user: what is wrong, where, and what to do about it."""


class VdmError(Exception):
    """Base of every error that a command reports without a traceback."""


class DataError(VdmError, ValueError):
    """A source or a data directory that cannot be used."""


class RecordError(DataError):
    """A record or a shard whose bytes are not what was written."""


class ConfigError(VdmError, ValueError):
    """A setting, or two settings together, that cannot be used."""


class CheckpointError(VdmError):
    """A checkpoint or run directory that is missing, damaged or of another run."""


class NewerCheckpointError(CheckpointError):
    """A checkpoint that is whole, but in a form that only a newer version of this project reads."""


class DivergedError(VdmError):
    """Training or evaluation met a value that is not finite."""


class MachineError(VdmError):
    """What was asked for does not fit the devices, memory or hosts at hand."""
