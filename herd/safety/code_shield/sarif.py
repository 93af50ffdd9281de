"""Findings as SARIF 2.1.0, the format that code hosts and editors read (OASIS, docs.oasis-open.org/sarif)."""

from collections.abc import Mapping, Sequence
from typing import Any

from herd.safety.code_shield.scan import Finding

_LEVELS = {"high": "error", "medium": "warning", "low": "note"}


def sarif(found: Mapping[str, Sequence[Finding]], version: str) -> dict[str, Any]:
    """One run over files: path -> findings. `version` is herd's."""
    rules: dict[str, dict[str, Any]] = {}
    results = []
    for path, findings in found.items():
        for finding in findings:
            rules.setdefault(
                finding.rule,
                {
                    "id": finding.rule,
                    "shortDescription": {"text": finding.why},
                    "help": {"text": finding.safer},
                    "properties": {"tags": ["security", f"external/cwe/{finding.cwe.lower()}"]},
                },
            )
            results.append(
                {
                    "ruleId": finding.rule,
                    "level": _LEVELS[finding.severity],
                    "message": {"text": f"{finding.cwe}: {finding.why} {finding.safer}"},
                    "locations": [
                        {
                            "physicalLocation": {
                                "artifactLocation": {"uri": path},
                                "region": {"startLine": finding.line, "startColumn": finding.column},
                            }
                        }
                    ],
                }
            )
    driver = {"name": "herd code shield", "version": version, "rules": list(rules.values())}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }
