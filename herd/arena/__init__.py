"""Blind votes between models, and the ranking they give."""
