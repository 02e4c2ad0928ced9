"""Keeps secrets of the environment out of logs and artifacts."""

import os
import re
from collections.abc import Mapping

_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|AUTH_STRING|API_KEY|PRIVATE_KEY|CREDENTIAL|CONNECTION_URL", re.I)
# Shorter values are no secrets, and replacing them would garble every line.
_MIN_LENGTH = 6


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return text with the value of every variable that is named like a secret replaced by the variable's name."""
    for name, value in environment.items():
        if len(value) >= _MIN_LENGTH and _NAME.search(name) and value in text:
            text = text.replace(value, f"<{name}>")
    return text
