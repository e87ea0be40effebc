"""A run as one page to look at: HTML that needs nothing beside it.

Stands on ``train``, ``evaluate``, ``certificate_file`` and ``reproduce``, whose pictures it shows; the command line
calls it.
"""

from gloro_fast.report.contents import Contents
from gloro_fast.report.page import html_page

__all__ = ["Contents", "html_page"]
