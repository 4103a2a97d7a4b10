"""How results are kept on disk: files that appear whole or not at all, and results that save and load themselves."""

from hooked_diffusion.artefact.files import read, read_json, replacing, write, write_json
from hooked_diffusion.artefact.results import Artefact, JsonArtefact, rebuilt
from hooked_diffusion.artefact.values import Malformed, build, encode, shown

__all__ = [
    "Artefact", "JsonArtefact", "Malformed", "build", "encode", "read", "read_json", "rebuilt", "replacing", "shown", "write", "write_json",
]  # fmt: skip
