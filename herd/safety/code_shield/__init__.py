"""Insecure code, found in process and while it is written. Start with `scan`; `judge_command` is for shell commands."""

from herd.safety.code_shield.scan import Finding, scan
from herd.safety.code_shield.shell import Verdict, judge_call, judge_command
from herd.safety.code_shield.stream import Stream

__all__ = ["Finding", "Stream", "Verdict", "judge_call", "judge_command", "scan"]
