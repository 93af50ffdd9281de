"""The site's hook: files of the repository that a document links to become pages of the site (Markdown) or files in it (the rest).

mkdocs knows only what lies in docs/. Here a link such as ../../deploy/kubernetes.yaml leads to repository/deploy/kubernetes.yaml.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FOLDER = "repository"
LINK = re.compile(r"\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def place(uri: str) -> str:
    """A document's path in the repository, of its path in the site."""
    return uri.removeprefix(FOLDER + "/") if uri.startswith(FOLDER + "/") else "docs/" + uri


def target(link: str, uri: str) -> str:
    """The path in the repository to which a document's link leads."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place(uri)), link))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that are linked to, and those that these link to."""
    pages = list(files.documentation_pages())
    while pages:
        page = pages.pop()
        for link, _ in LINK.findall(page.content_string):
            path = target(link, page.src_uri)
            uri = f"{FOLDER}/{path}"
            if path.startswith(("docs/", "../")) or not (ROOT / path).is_file() or files.get_file_from_path(uri):
                continue
            added = File.generated(config, uri, content=(ROOT / path).read_bytes())
            files.append(added)
            if added.is_documentation_page():
                pages.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave docs/, or come back into it, lead to the site's places."""
    here = page.file.src_uri

    def moved(found: re.Match[str]) -> str:
        path = target(found[1], here)
        uri = path.removeprefix("docs/") if path.startswith("docs/") else f"{FOLDER}/{path}"
        if files.get_file_from_path(uri) is None:
            return found[0]  # mkdocs names it, and --strict refuses
        return f"]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{found[2] or ''})"

    return LINK.sub(moved, markdown)
