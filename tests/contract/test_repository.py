"""What the repository's layout promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_folder_operator_holds_no_module_of_its_own() -> None:
    """A module in it would shadow the standard library's `operator` for whoever runs from the root."""
    assert list((ROOT / "operator").glob("*.py")) == []
    assert not (ROOT / "tests/operator").exists()


def test_python_started_in_the_root_finds_its_own_operator_module() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.__file__)"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT) not in done.stdout


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.lock")), ids=lambda path: path.name)
def test_locks_carry_hashes_and_no_addresses(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index-url" not in text
    requirements = re.findall(r"^[a-z0-9][^\s;]*==\S+.*$", text, re.MULTILINE)
    assert requirements
    assert all(line.endswith("\\") for line in requirements), "a requirement without a hash"


@pytest.mark.parametrize(
    ("lock", "absent"),
    [
        ("operator.lock", ("torch", "timm", "fastapi", "opencv-python-headless")),
        ("server.lock", ("kopf", "kubernetes")),
    ],
)
def test_an_image_holds_only_its_own_dependencies(lock: str, absent: tuple[str, ...]) -> None:
    names = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / lock).read_text(), re.MULTILINE))
    assert not names & set(absent)


@pytest.mark.parametrize("dockerfile", ["Dockerfile.operator", "Dockerfile.server"])
def test_images_keep_the_folder_of_the_program_off_the_module_path(dockerfile: str) -> None:
    assert "PYTHONSAFEPATH=1" in (ROOT / dockerfile).read_text()


def test_the_readme_shows_both_set_up_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("localcluster/*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert broken == []


def test_no_document_was_left_with_a_placeholder() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/**/*.md")]
    assert [str(path) for path in documents if re.search(r"@[A-Z_]{3,}@", path.read_text())] == []


def test_the_readme_waits_for_the_service_that_it_applies() -> None:
    readme = (ROOT / "README.md").read_text()
    applied = re.findall(r"kubectl apply -f (examples/depthservice\S+)", readme)
    names = {re.search(r"^  name: (\S+)", (ROOT / file).read_text(), re.MULTILINE)[1] for file in applied}  # type: ignore[index]  # every example has a name
    assert set(re.findall(r"kubectl wait \S+ dsvc/(\S+)", readme)) == names
