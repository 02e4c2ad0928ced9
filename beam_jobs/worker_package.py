"""The wheel that the workers of Dataflow install: the half of this project that makes data, and what it needs.

Made of the modules as they are installed here, so that a job runs the code that submitted it; no setup.py, no
checkout and no build tool are needed.
"""

import base64
import hashlib
import importlib
import importlib.metadata
import zipfile
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("beam_jobs", "vdm_lib")
_NEEDED = ("etils[epath]", "gcsfs", "google-crc32c", "jaxtyping", "numpy", "pillow", "scikit-learn")
_NEEDED_FOR_TFDS = ("importlib-resources", "tensorflow", "tensorflow-datasets")
_NAME = "vdm_pipeline"
_TIME = (1980, 1, 1, 0, 0, 0)


def requirements(*, tfds: bool) -> list[str]:
    """Return what workers need beside Beam, each in the version that is installed here.

    Args:
        tfds: the source is read through TFDS.
    """
    names = (*_NEEDED, *_NEEDED_FOR_TFDS) if tfds else _NEEDED
    return [f"{name}=={importlib.metadata.version(name.split('[')[0])}" for name in names]


def _modules() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        folder = Path(importlib.import_module(package).__file__ or "").parent
        for path in sorted(folder.rglob("*.py")):
            yield f"{package}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def write_wheel(folder: Path, *, tfds: bool = False) -> Path:
    """Write the wheel and return its path; equal modules and requirements give equal bytes.

    Args:
        folder: where to write it.
        tfds: the source is read through TFDS, so that workers need TensorFlow.
    """
    version = importlib.metadata.version("vdm-pipeline")
    about = f"{_NAME}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements(tfds=tfds))
    files = {
        **dict(_modules()),
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: {version}\n{needs}".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: vdm prepare\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    wheel = folder / f"{_NAME}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), data, zipfile.ZIP_DEFLATED)
    return wheel


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
