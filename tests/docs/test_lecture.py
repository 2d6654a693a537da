"""The figures of the lecture: those that its code saves, those that it shows and those in the folder are the same."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "lecture.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"!\[([^\]]+)\]\(figures/([^)]+)\)", PAGE)


def test_every_figure_is_made_by_the_code_of_the_page_and_lies_in_the_folder() -> None:
    shown = {name for _, name in SHOWN}
    saved = set(re.findall(r'save\(drawing, "([^"]+)"\)', PAGE)) | set(re.findall(r"^\$ .*--figure (\S+)$", PAGE, re.M))
    assert shown <= saved
    assert {path.name for path in (DOCS / "figures").iterdir()} == shown
    assert len(shown) == len(SHOWN)


@pytest.mark.parametrize(("alternative", "name"), SHOWN, ids=[name for _, name in SHOWN])
def test_a_figure_is_a_drawing_with_words_for_those_who_cannot_see_it(alternative: str, name: str) -> None:
    root = ElementTree.parse(DOCS / "figures" / name).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(alternative.split()) >= 10
