"""What every program does before it touches gs://, and what it says when that fails.

Object stores are reached through gcsfs: etils would otherwise load TensorFlow, which takes seconds and more memory
than a training host need spend.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from vdm_lib.errors import DataError

os.environ.setdefault("EPATH_USE_TF", "false")
# A failed request is raised and told in one line; gcsfs would log its traceback as well.
logging.getLogger("gcsfs").addHandler(logging.NullHandler())

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Not all of google.*: a damaged file is an error of google.protobuf.
_CLIENTS = (
    *("gcsfs", "aiohttp", "googleapiclient", "google.api_core", "google.cloud", "google.resumable_media"),
    *("apitools", "requests"),
)
_LOGIN = "log in with `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"


def explain(error: Exception) -> str | None:
    """Return one line about an error of an object store or of Google's API, None if it is not one of those."""
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    module = type(error).__module__
    code = str(getattr(error, "code", "") or getattr(error, "status_code", ""))
    if module.startswith("google.auth") or code == "401" or "Anonymous caller" in str(error):
        return f"no valid credentials for Google Cloud ({line}): {_LOGIN}"
    if line.startswith("Forbidden"):  # gcsfs makes a bare OSError of it
        code = "403"
    if code == "403" and "quota" not in str(error).lower():
        return f"Google Cloud refuses access ({line}): ask for the role Storage Object Admin, or {_LOGIN}"
    if code in ("403", "429") or "quota" in str(error).lower():
        return f"Google Cloud is out of quota ({line}): wait, or ask for more quota"
    if isinstance(error, ImportError) and "gcsfs" in str(error):
        return "gs:// needs gcsfs: pip install '.[gcp]'"
    if module.startswith(_CLIENTS):
        return f"Google Cloud cannot be reached or refused the request ({type(error).__name__}: {line})"
    return None


@contextmanager
def storage_errors(place: object) -> Iterator[None]:
    """Turn errors of an object store inside the block into one line that names the place.

    Raises:
        DataError: no credentials, no permission, no quota, no such bucket, or neither a local path nor gs://.
    """
    scheme = _SCHEME.match(os.fspath(place) if isinstance(place, os.PathLike) else str(place))
    if scheme is not None and scheme[0] != "gs://":
        raise DataError(f"{place}: {scheme[0]} cannot be used, only local paths and gs://")
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        raise DataError(f"{place}: {message}") from error
