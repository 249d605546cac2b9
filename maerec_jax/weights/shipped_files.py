"""The files of the weights that come with the package."""

from importlib import resources
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.storage import checksum

ENDING = ".safetensors"
SHIPPED = ("maerec_tiny", "maerec_tiny_rendered")
"""The names of the weights that come with the package, which stand for their files; the first are the default."""


def is_shipped(name: str) -> bool:
    """Whether a name, "" for the default, stands for such weights: not where something here is called so."""
    return not name or (name in SHIPPED and not Path(name).exists())


def shipped_file(name: str) -> Path:
    """The file of weights that come with the package. Raises ``UserError`` where it is missing or was changed."""
    folder = Path(str(resources.files("maerec_jax.weights"))) / "shipped"
    file = folder / f"{name}{ENDING}"
    try:
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        expected = {name: digest for digest, name in map(str.split, lines)}[file.name]
        found = checksum(file)
    except (OSError, LookupError, ValueError) as error:
        raise UserError(f"the built-in weights {name} cannot be read ({error}): install maerec-jax again") from error
    if found != expected:
        raise UserError(f"{file} is damaged, its SHA-256 is {found} and not {expected}: install maerec-jax again")
    return file
