"""Engines: they take a conversation and settings and yield the events of a reply."""
