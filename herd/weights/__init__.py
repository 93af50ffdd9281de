"""Files <-> canonical tensors: `open_checkpoint(path)` reads Meta, Hugging Face and GGUF files alike."""
