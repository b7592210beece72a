"""The package that the index would show."""

import re
from pathlib import Path

from hatch_build import absolute_links

ROOT = Path(__file__).parent.parent


def test_no_link_of_the_readme_is_relative_on_the_package_index() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    url = "https://example.org/team/resight"
    targets = re.findall(r"\]\(([^)]*)\)", absolute_links(readme, url, "v1"))
    assert len(targets) > 20
    assert all("://" in target for target in targets)
    for target in targets:
        if target.startswith(url):
            kind, tag, path = target.removeprefix(f"{url}/").split("/", 2)
            assert (kind, tag) == ("raw" if path.endswith(".png") else "blob", "v1")
            assert (ROOT / path.partition("#")[0]).exists()
