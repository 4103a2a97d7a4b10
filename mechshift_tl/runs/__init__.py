"""What a run leaves behind and how it survives: artefacts, provenance, finished batches and stages, its folder, its processes."""
