"""mpt: deep prompts over a frozen language model, pretrained on many tasks and transferred to new ones."""

__version__ = "0.1.0"
