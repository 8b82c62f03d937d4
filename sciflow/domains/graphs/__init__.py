"""Generic graphs: files, codec, metrics and generators (import the module you need; nothing is loaded here)."""
