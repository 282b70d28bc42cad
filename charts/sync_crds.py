"""Write the chart's copy of the CustomResourceDefinitions from `crds/`, the source of truth.

The copy is a template: it can be switched off, and kept when the chart is uninstalled. Run it after a change of
`crds/`; `--check` changes nothing and exits with 1 if a copy differs.
"""  # noqa: INP001 - a script, part of no package

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "crds"
TEMPLATES = ROOT / "charts" / "depth-operator" / "templates" / "crds"

KEEP = """\
metadata:
  {{- if .Values.crds.keep }}
  annotations:
    helm.sh/resource-policy: keep
  {{- end }}
"""


def as_template(crd: str, name: str) -> str:
    """The text of a CustomResourceDefinition as a Helm template.

    Args:
        crd: YAML of one object without annotations.
        name: File name, for the header and for messages.

    Raises:
        ValueError: If the object has annotations already, or its metadata cannot be found.
    """
    if re.search(r"^  annotations:", crd, flags=re.MULTILINE):
        raise ValueError(f"crds/{name}: has annotations, which this script would add a second time")
    escaped = crd.replace("{{", '{{ "{{" }}')
    body, count = re.subn(r"^metadata:\n", KEEP.replace("\\", r"\\"), escaped, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"crds/{name}: expected one top-level line `metadata:`, found {count}")
    header = f"{{{{- /* Generated from crds/{name} by charts/sync_crds.py; change that file instead. */ -}}}}\n"
    return f"{header}{{{{- if .Values.crds.enabled }}}}\n{body.rstrip()}\n{{{{- end }}}}\n"


def main(arguments: list[str] | None = None) -> int:
    """Write or check every copy; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit with 1 on a difference")
    check = parser.parse_args(arguments).check
    sources = sorted(SOURCES.glob("*.yaml"))
    expected = {TEMPLATES / source.name: as_template(source.read_text(), source.name) for source in sources}
    stale = [path for path in TEMPLATES.glob("*.yaml") if path not in expected]
    different = [path for path, text in expected.items() if not path.exists() or path.read_text() != text]
    for path in [*stale, *different]:
        sys.stdout.write(f"{'differs' if check else 'wrote'}: {path.relative_to(ROOT)}\n")
    if check:
        return 1 if stale or different else 0
    TEMPLATES.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.unlink()
    for path in different:
        path.write_text(expected[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
