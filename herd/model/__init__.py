"""The Llama model in torch: the reference that training runs and everything else is checked against."""
