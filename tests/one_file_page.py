# SPDX-License-Identifier: Apache-2.0
"""A page's tags and addresses, without a browser."""

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Names of tags, those left open at the end, and every address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names, self.open, self.addresses = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.names.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "poster")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag
