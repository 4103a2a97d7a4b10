"""From a name to local files: an existing path as it is, a hub id through Hugging Face's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
#: Data alone: no Python files; pickles (of which only the tensors are read) where there is nothing better.
FETCHED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt")
PICKLED = ("pytorch_model*.bin",)


def locate(name_or_path: str | Path, revision: str | None = None) -> tuple[Path, str | None]:
    """The local folder or `.gguf` file of a checkpoint, and the revision (a hub id's commit; None for a local path).

    Raises FileNotFoundError for what is neither a folder, a `.gguf` file nor a hub id, ValueError for a local path with a revision or for
    two revisions that differ, OSError when the hub cannot give it.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        if revision is not None:
            raise ValueError(f"{path} is local and has no revisions, but revision={revision!r} was passed; leave it out")
        return path, None
    if path.is_file():
        raise FileNotFoundError(f"{path} is a file, but not a .gguf one; give the folder of a checkpoint that holds config.json")
    match = HUB_ID.fullmatch(name_or_path) if isinstance(name_or_path, str) else None
    if match is None:
        raise FileNotFoundError(
            f"{name_or_path} does not exist; give the folder of a checkpoint, a .gguf file, or a hub id org/name@revision"
        )
    stated = match["revision"]
    if stated and revision and stated != revision:
        raise ValueError(f"{name_or_path} names revision {stated}, but revision={revision!r} was passed; give one of them")
    folder = _fetch(match["repo"], stated or revision)
    return folder, folder.name


def _fetch(repo: str, revision: str | None) -> Path:
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(FETCHED)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*FETCHED, *PICKLED]))
        return folder
    except (HfHubHTTPError, OSError) as error:
        at = f" at revision {revision}" if revision else ""
        raise OSError(
            f"{repo} is no folder here, and the hub did not give it{at} ({type(error).__name__}): check the name and the network, "
            "or download it elsewhere and give the folder"
        ) from error
