"""The forms in which data files come: read, and written back with predictions."""
