"""The pages: examples run, links work both on a code host and on the site, and the site builds."""

import os
import re
import shutil
import subprocess

import pytest

from tests.pages import LANGUAGES, PAGES, README, ROOT, blocks, run_examples

LINK = re.compile(r"\]\(([^)\s]*)\)")
RUN = [
    page
    for page in PAGES
    if page != README and any(b.language in ("sh", "python") and not b.reason for b in blocks(page))
]


def name(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name)
def test_a_pages_examples_run(page, reader, tmp_path):
    folder = tmp_path / "reader"
    shutil.copytree(reader.folder, folder)
    assert all(run_examples(page, folder))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_names_its_language(page):
    assert {block.language for block in blocks(page)} <= LANGUAGES
    assert page.read_text(encoding="utf-8").count("\n```") == 2 * len(list(blocks(page)))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_cpp_examples_compile(page):
    programs = [block.code for block in blocks(page) if block.language == "cpp"]
    compiler = shutil.which("c++")
    if programs and compiler is None:
        pytest.skip("needs a C++ compiler")
    for program in programs:
        command = [
            compiler,
            "-std=c++17",
            "-fsyntax-only",
            "-Wall",
            "-Werror",
            "-I",
            ROOT / "cpp" / "include",
            "-xc++",
            "-",
        ]
        done = subprocess.run(command, input=program, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md"], ids=name)
def test_links_lead_to_files_and_sections(page):
    for target in LINK.findall(re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)):
        if ":" in target:
            continue
        path, _, section = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not section or section in sections(there), target


def sections(page):
    """Anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_can_be_reached():
    """From the site's navigation; strict MkDocs checks the rest."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[2:]:
        assert f"{page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation, page


@pytest.fixture(scope="module")
def site():
    if "CAAN_SITE" not in os.environ:
        pytest.skip("make docs builds the site and tests it")
    return ROOT / os.environ["CAAN_SITE"]


def test_the_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", page.read_text(encoding="utf-8")):
            if 'rel="canonical"' not in tag:
                assert not re.search(r'(?:src|href)="?(?:https?:)?//', tag), f"{page}: {tag}"


def test_the_references_are_made_from_the_code(site):
    commands = (site / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    python = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert "--calibration-method" in commands and "Data for the accuracy gate." in commands
    assert "score_matrix" in python and "asearch" in python and "DeadlineExceeded" in python
    assert ":::" not in commands + python
