"""Finds plugins, keeps what they offer in tables, and gets along without the broken ones."""

from dgemma_backend.plugins.loaded import PluginInfo
from dgemma_backend.plugins.tables import Plugins, provider

__all__ = ["PluginInfo", "Plugins", "provider"]
