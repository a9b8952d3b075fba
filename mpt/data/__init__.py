"""Manifests, readers, tags, tokenization, mixtures and batches."""
