"""Rooms by science: each sub-package turns its own objects into states and back; import the one you need."""
