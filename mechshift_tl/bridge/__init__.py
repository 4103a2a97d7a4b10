"""All that is known here of a TransformerLens model: hooks, weights, norms, how its logits are aligned, how it decodes."""
