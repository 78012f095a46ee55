"""Trains the small embedded DiffusionGemma from nothing: tokenizer, data, loop, evaluation."""
