"""Task states: parts, and banks of them."""
