"""herd: the Llama 3.1 system in Python."""

__version__ = "0.1.0"
