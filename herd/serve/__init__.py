"""The OpenAI-compatible API and the web page: HTTP in front of one engine."""
