"""From label scores to a figure: decoding, scoring, reporting."""
