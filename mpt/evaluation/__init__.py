"""From a model to figures: whole splits evaluated, compared, reported."""
