"""How much of a file a process has in memory."""

import re
from pathlib import Path


def resident_kilobytes(file: Path, process: int | str = "self") -> int:
    """Of all its mappings there."""
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{process}/smaps").read_text(), flags=re.MULTILINE)
    found = [entry for entry in entries if entry.splitlines()[:1] and entry.splitlines()[0].endswith(str(file))]
    assert found, f"{file} is not mapped"
    return sum(int(re.findall(r"^Rss: +(\d+) kB", entry, re.MULTILINE)[0]) for entry in found)
