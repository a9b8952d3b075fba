"""The frozen language model, and how task states reach it."""
