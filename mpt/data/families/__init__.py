"""Families of tasks: how each is encoded."""
