"""Methods, stages and comparisons."""
