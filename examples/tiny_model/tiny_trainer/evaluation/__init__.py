"""Measures a checkpoint on held-out names, numbers and wordings."""
