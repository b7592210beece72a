"""Make README.md readable on the package index: there, a relative link leads nowhere.

The address of the repository is known where GitHub's workflow builds a release. Elsewhere the
links stay relative, and the package has no project URLs.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class CustomMetadataHook(MetadataHookInterface):
    """Set `readme` and `urls` of the package."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the two fields; hatchling calls this."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        server, repository = map(os.environ.get, ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"))
        metadata["urls"] = {}
        if server and repository:
            url = f"{server}/{repository}"
            tag = os.environ.get("GITHUB_REF_NAME", "main")
            text = absolute_links(text, url, tag)
            metadata["urls"] = {
                "Documentation": f"{url}/tree/{tag}/docs",
                "Source": url,
                "Issues": f"{url}/issues",
                "Changelog": f"{url}/blob/{tag}/CHANGELOG.md",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute_links(text: str, url: str, tag: str) -> str:
    """Return Markdown whose links to files lead into a repository at a tag, pictures to the file.

    Links with a scheme, and links to a heading of the same page, stay as they are.
    """

    def absolute(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        return f"{mark}[{words}]({url}/{'raw' if mark else 'blob'}/{tag}/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", absolute, text)
