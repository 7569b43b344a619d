"""Finds models on disk: GGUF folders, download caches, Ollama stores.

Reads, bounded and without trust; never writes outside its own cache file, never talks to a
server, and never lets one bad file stop a scan.
"""
