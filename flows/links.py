"""Addresses that a browser can open."""

from pathlib import Path


def link_to(place: str) -> str:
    """Return the address of a directory or file: Google's console for gs://, file:// for this machine."""
    if place.startswith("gs://"):
        return f"https://console.cloud.google.com/storage/browser/{place.removeprefix('gs://')}"
    return Path(place).absolute().as_uri()
