"""A trained run in other programs: files that need no resight, and a page to try it on."""
