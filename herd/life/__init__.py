"""The whole life of a model in one recipe: corpus, tokenizer, training in its phases, measuring, a model folder, a report."""
