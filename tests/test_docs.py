"""What the guides tell people to type exists: verbs, options, files, modules."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.main import get_command

from fgr_edge.cli import app

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))


def commands(guide: Path) -> list[list[str]]:
    """Every `fgr-edge VERB ...` of a code block, in words, lines that go on joined."""
    blocks = re.findall(r"```sh\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("fgr-edge ")]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_command_of_a_guide_has_its_verb_and_options(guide: Path) -> None:
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    found = commands(guide)
    assert found
    for _, verb, *words in found:
        assert verb in verbs, f"{guide.name}: there is no `fgr-edge {verb}`"
        known = {option for parameter in verbs[verb].params for option in parameter.opts}
        asked = {word for word in words if word.startswith("-")}
        assert asked <= known, f"{guide.name}: fgr-edge {verb} has no {', '.join(sorted(asked - known))}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_link_of_a_guide_leads_to_a_file(guide: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", guide.read_text(encoding="utf-8")):
        assert (guide.parent / target).exists(), f"{guide.name} links to {target}"
