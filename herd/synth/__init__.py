"""A model writes data: instructions, questions, code that runs, checked arithmetic, dialogs, preferences, labels."""
