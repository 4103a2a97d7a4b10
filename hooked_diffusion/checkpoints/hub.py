"""From a name to local files: a path that exists is used directly; a hub id is fetched into Hugging Face's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from hooked_diffusion.checkpoints.names import HUB_ID

#: Data alone: no Python files; pickles (of which only the tensors are read) where there is nothing better.
FETCHED = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt")
PICKLED = ("pytorch_model*.bin",)
#: What says how a checkpoint is read, without its weights.
CONFIGS = ("config.json", "tokenizer_config.json", "added_tokens.json", "tokenizer.json", "vocab.json")


def locate(name_or_path: str | Path, revision: str | None = None) -> tuple[Path, str | None]:
    """The local folder or `.gguf` file of a checkpoint, and the revision (a hub id's commit; None for a local path).

    Raises FileNotFoundError for what is neither a folder, a `.gguf` file nor a hub id, ValueError for a local path with a revision or for
    two revisions that differ, OSError when the hub cannot give it.
    """
    if (path := _local(name_or_path, revision)) is not None:
        if path.is_file() and path.suffix != ".gguf":
            raise FileNotFoundError(f"{path} is a file, but not a .gguf one; give the folder of a checkpoint that holds config.json")
        return path, None
    folder = _fetch(*_hub_id(name_or_path, revision))
    # The cache names a snapshot's folder by its commit.
    return folder, folder.name


def locate_config(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The `config.json` of a checkpoint, beside its tokenizer files, or its `.gguf` file; the weights are not fetched.

    A path to a `.json` file is such a config by another name. Raises as `locate` does.
    """
    path = _local(name_or_path, revision)
    if path is not None and path.is_file():
        if path.suffix not in (".gguf", ".json"):
            raise FileNotFoundError(f"{path} is a file, but no .gguf and no .json one; give the folder of a checkpoint, or its config.json")
        return path
    found = (path or _fetch_configs(*_hub_id(name_or_path, revision))) / "config.json"
    if not found.is_file():
        raise FileNotFoundError(no_config(found.parent))
    return found


def no_config(folder: Path) -> str:
    """The message about a folder without a config."""
    return f"{folder} holds no config.json; give the folder of a checkpoint, a .gguf file, or a hub id org/name"


def _local(name_or_path: str | Path, revision: str | None) -> Path | None:
    """The path of a folder or file that is here; None where there is none. Raises ValueError where it is given a revision."""
    path = Path(name_or_path).expanduser()
    if not (path.is_dir() or path.is_file()):
        return None
    if revision is not None and (path.is_dir() or path.suffix == ".gguf"):
        raise ValueError(f"{path} is local and has no revisions, but revision={revision!r} was passed; leave it out")
    return path


def _hub_id(name_or_path: str | Path, revision: str | None) -> tuple[str, str | None]:
    """Repository and revision of a hub id."""
    match = HUB_ID.fullmatch(name_or_path) if isinstance(name_or_path, str) else None
    if match is None:
        raise FileNotFoundError(
            f"{name_or_path} does not exist; give the folder of a checkpoint, a .gguf file, or a hub id org/name@revision"
        )
    stated = match["revision"]
    if stated and revision and stated != revision:
        raise ValueError(f"{name_or_path} names revision {stated}, but revision={revision!r} was passed; give one of them")
    return match["repo"], stated or revision


def _fetch(repo: str, revision: str | None) -> Path:
    with _clear_failure(repo, revision):
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(FETCHED)))
        # Two steps, so that a repository with both kinds is not fetched twice over. Files that are here already are not fetched again.
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*FETCHED, *PICKLED]))
        return folder


def _fetch_configs(repo: str, revision: str | None) -> Path:
    with _clear_failure(repo, revision):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(CONFIGS)))


@contextmanager
def _clear_failure(repo: str, revision: str | None) -> Iterator[None]:
    """Say in one sentence that the hub did not give a repository."""
    try:
        yield
    except (HfHubHTTPError, OSError, ValueError) as error:  # ValueError: names that the hub does not allow
        at = f" at revision {revision}" if revision else ""
        raise OSError(
            f"{repo} is no folder here, and the hub did not give it{at} ({type(error).__name__}): check the name and the network, "
            "or download it elsewhere and give the folder"
        ) from error
