"""The two stages, put together from data, model, training and evaluation."""
