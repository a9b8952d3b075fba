"""Errors, strict YAML, seeding, durable files, signals: what every other layer stands on."""
