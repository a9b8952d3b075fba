"""Families of tasks: how each is encoded, decoded and scored."""
