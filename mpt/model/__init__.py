"""Frozen backbones, deep prompts and heads."""
