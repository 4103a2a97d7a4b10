"""Which token stands for "masked": the tokenizer's own, a free row of the embedding, or an ordinary token that the data never hold."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from hooked_diffusion.checkpoints.loading import LoadedCheckpoint

NEW = "<|mask|>"


@dataclass(frozen=True)
class MaskToken:
    """The mask: its id, its text, and whether the id is also an ordinary token's."""

    id: int
    token: str
    is_reused: bool


def mask_token(loaded: LoadedCheckpoint, wanted: str | None = None) -> MaskToken:
    """The mask of a model that is to become an MDM; a free row of its embedding is given to the tokenizer as `<|mask|>`.

    Raises ValueError where `wanted` is no token, and where there is neither a mask nor a free row.
    """
    tokenizer = tokenizer_of(loaded)
    vocabulary, rows = tokenizer.get_vocab(), loaded.hf_model.config.vocab_size
    name = loaded.source["name"]
    if wanted is not None:
        if wanted not in vocabulary or vocabulary[wanted] >= rows:
            raise ValueError(f"{name}: its tokenizer has no token {wanted!r} to use as the mask; name one of its vocabulary")
        return MaskToken(vocabulary[wanted], wanted, wanted != tokenizer.mask_token)
    known = tokenizer.mask_token_id
    if isinstance(known, int) and known < rows:
        return MaskToken(known, str(tokenizer.mask_token), False)
    free = max(vocabulary.values()) + 1
    if free >= rows:
        raise ValueError(
            f"{name}: its tokenizer has no mask token, and its embedding of {rows} rows no room for one; name a token that the data never "
            "hold as the mask, such as mask='<|endoftext|>'"
        )
    tokenizer.add_special_tokens({"mask_token": NEW})
    return MaskToken(free, NEW, False)


def tokenizer_of(loaded: LoadedCheckpoint) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. Raises ValueError where it has none."""
    if loaded.tokenizer is None:
        raise ValueError(f"{loaded.source['name']} has no tokenizer, which post-training needs; open it with one")
    return loaded.tokenizer


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that closes a text. Raises ValueError where the tokenizer has none."""
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError("the tokenizer has no end-of-text token, which closes every text; set its eos_token")
    return end
