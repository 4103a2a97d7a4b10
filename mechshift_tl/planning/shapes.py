"""The shape of a model by name, without its weights: what planning needs.

A name is that of a known public pair or of a bundled pair, the folder of a pair or of a checkpoint, a GGUF file, or a hub id. Of a hub id
only `config.json` is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from hooked_diffusion.checkpoints.fields import Config
from hooked_diffusion.checkpoints.files import read_json
from hooked_diffusion.checkpoints.loading import open_checkpoint
from hooked_diffusion.checkpoints.lora import is_adapter
from hooked_diffusion.checkpoints.names import HUB_ID, repository_name
from hooked_diffusion.checkpoints.reading import read_config
from hooked_diffusion.checkpoints.tokenizer_files import config_of
from hooked_diffusion.pairs.known import KNOWN_PAIRS, KnownPair
from hooked_diffusion.pairs.pair import bundled_pairs, find_pair

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Shape:
    """The native `config` that `name` stands for. `notes` say what of it is not confirmed; `files` is where a tokenizer may be."""

    name: str
    config: PretrainedConfig
    notes: tuple[str, ...] = ()
    files: str | None = None

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, where its files are at hand without the network; else None."""
        if self.files is None or not _holds_vocabulary(self.files):
            return None
        try:
            return AutoTokenizer.from_pretrained(self.files, local_files_only=True, trust_remote_code=False)
        # A tokenizer that cannot be loaded is as good as none: the command then asks for the number of tokens.
        except (OSError, ValueError):
            return None


def find_shape(name: str, family: str | None = None, config: Config | None = None) -> Shape:
    """The shape that `name` stands for; see the module docstring. `family` and `config` are those of `load_checkpoint`.

    Raises ValueError on a name that is nothing of the kind and on a config that leaves out what shapes the model, OSError when the hub does
    not give a config.
    """
    if name in KNOWN_PAIRS:
        return _known(KNOWN_PAIRS[name])
    if (bundled := find_pair(name)) is not None:
        return _folder(name, bundled, family, config)
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(name, path, family, config)
    if path.suffix == ".gguf" and path.is_file():
        return Shape(name, open_checkpoint(path, family=family, config=config).config)
    if match := HUB_ID.fullmatch(name):
        return _hub(name, match["repo"], match["revision"], family, config)
    known = ", ".join((*bundled_pairs(), *KNOWN_PAIRS))
    raise ValueError(f"{name!r} is no pair or model known here; name one of {known}, a folder, a .gguf file, or a hub id org/name@revision")


def _holds_vocabulary(files: str) -> bool:
    """Whether a folder, or the hub's cache of a repository, has a vocabulary. Without one, transformers would make an empty tokenizer."""
    if Path(files).is_dir():
        return any((Path(files) / name).is_file() for name in VOCABULARIES)
    return any(isinstance(try_to_load_from_cache(files, name), str) for name in VOCABULARIES)


def _known(pair: KnownPair) -> Shape:
    note = f"shape of {pair.arm or pair.mdm} as reported, not confirmed [{pair.evidence}]: its config.json decides"
    return Shape(pair.name, pair.config(), () if pair.confirmed else (note,), pair.arm or pair.mdm)


def _folder(name: str, folder: Path, family: str | None, given: Config | None) -> Shape:
    """A pair's folder, whose models share their shape, or one checkpoint's."""
    model = folder / "arm" if (folder / "arm").is_dir() else folder
    if is_adapter(model):
        return Shape(name, open_checkpoint(model, family=family, config=given).config)
    where = model / "config.json"
    if not where.is_file():
        raise ValueError(f"{model} holds no config.json; give the folder of a checkpoint, or of a pair with arm in it")
    files = folder / "tokenizer" if (folder / "tokenizer").is_dir() else model
    return _shape(name, config_of(where), str(where), str(model), family, given, str(files))


def _hub(name: str, repo: str, revision: str | None, family: str | None, given: Config | None) -> Shape:
    try:
        file = hf_hub_download(repo, "config.json", revision=revision)
    except (HfHubHTTPError, OSError) as error:
        raise OSError(
            f"{name} is no folder here, and the hub did not give its config.json ({type(error).__name__}): check the name and the network"
        ) from error
    return _shape(name, read_json(Path(file)), f"{name}: config.json", repo, family, given, repo)


def _shape(name: str, config: Config, where: str, checkpoint: str, family: str | None, given: Config | None, files: str) -> Shape:
    reading = read_config(config, where=where, name=repository_name(checkpoint), family=family, given=given)
    # Without weights to compare, the config's own flag decides.
    reading.native.tie_word_embeddings = bool(reading.tied)
    return Shape(name, reading.native, reading.notes, files)
