"""The quickstart and its invented tasks."""
