"""Strings <-> tokens <-> messages: tokenizers, the dialog format, tool calls, chat templates."""
