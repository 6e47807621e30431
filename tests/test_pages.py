"""The README and docs/: links lead somewhere, every page is reached, and what is called a command or a recipe is one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmedge.cli.main import verbs
from tests.conftest import REPOSITORY, child_environment
from tests.readme_commands import commands, pages

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PAGES = [*pages(), REPOSITORY / "CHANGELOG.md", *REPOSITORY.glob("deploy/**/*.md"), REPOSITORY / "mmedge/README.md"]


def links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    return [link for link in LINK.findall(text) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_link_leads_to_a_file_of_this_repository(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() and target.is_relative_to(REPOSITORY), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, link


def test_every_page_of_docs_is_reached_from_the_index_and_from_the_readme():
    docs = {page.name for page in (REPOSITORY / "docs").glob("*.md")}
    assert docs - {"README.md"} == {link for link in links(REPOSITORY / "docs/README.md") if "/" not in link}
    reached = {link.removeprefix("docs/") for link in links(REPOSITORY / "README.md")}
    of_ours = {"README.md", "faults.md"}  # for who changes mmedge
    assert docs - of_ours <= reached and len(docs) > 5


def test_what_the_pages_run_are_verbs_and_scripts_that_are_there():
    lines = [line for page in pages() for line in commands(page.read_text(encoding="utf-8"))]
    assert len(lines) > 30
    for line in lines:
        program, first, *_ = line.split()
        assert first in verbs() if program == "mmedge" else (REPOSITORY / first).is_file(), line
        for recipe in re.findall(r"recipes/\S+\.yaml", line):
            assert (REPOSITORY / recipe).is_file(), line


@pytest.mark.parametrize(
    ("words", "completed"),
    [("mmedge qua", "quantize"), ("mmedge run --ou", "--out"), ("mmedge export --dt", "--dtype")],
)
def test_a_shell_completes_verbs_and_options(words, completed):
    """As click's scripts for bash, zsh and fish ask, which docs/command-line.md tells of."""
    asked = {"_MMEDGE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    program = Path(sys.executable).with_name("mmedge")
    done = subprocess.run([program], env={**child_environment(), **asked}, capture_output=True, text=True)
    assert done.stdout.split() == [f"plain,{completed}"], done.stderr
