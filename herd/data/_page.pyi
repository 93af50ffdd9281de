def main_text(markup: str) -> str:
    """The main text of a body, from markup as a parser writes it out."""

def deep(markup: bytes, depth: int, tags: int) -> bool:
    """Whether elements nest deeper than `depth`, or there are more than `tags`."""
