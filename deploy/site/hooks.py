"""Links of the documents lead to files of the repository, or to other documents. In the site the first ones lead to the repository."""

import re

LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_page_markdown(markdown, page, config, files):
    source = "" if page.file.src_uri == "index.md" else "docs/"

    def target(match):
        link = match.group(2)
        if "://" in link or link.startswith("#"):
            return match.group(0)
        path, _, fragment = link.partition("#")
        parts = []
        for part in (source + path).split("/"):
            if part == "..":
                parts.pop()
            else:
                parts.append(part)
        path = "/".join(parts)
        if path == "README.md":
            link = "index.md"
        elif path.startswith("docs/"):
            link = path.removeprefix("docs/")
        else:
            link = f"{config['repo_url']}/blob/main/{path}"
        return match.group(1) + link + ("#" + fragment if fragment else "") + match.group(3)

    return LINK.sub(target, markdown)
