"""Which task and which examples make which step."""
