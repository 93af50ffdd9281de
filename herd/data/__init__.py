"""Documents: from the web to text that a model is trained on."""
