"""Writes the first Python example of a Markdown page to standard output, so that it can be run as a user would."""

import re
import sys
from pathlib import Path

page = Path(sys.argv[1])
example = re.search(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
if example is None:
    sys.exit(f"{page} has no ```python example")
sys.stdout.write(example[1])
