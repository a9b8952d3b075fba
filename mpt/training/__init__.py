"""Steps, loop, optimizer and checkpoints."""
