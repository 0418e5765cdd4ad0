"""``litestage bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from litestage.atomic import writable
from litestage.cli.output import print_json, print_table


def run_bench(quick: bool, output: Path, as_json: bool) -> None:
    """Runs the bench, prints its table, writes bench.json, bench.md and bench.svg into ``output``."""
    from litestage.bench import bench
    from litestage.bench.picture import as_markdown, as_svg, cells

    writable(output)
    content = bench(quick)
    columns, rows = cells(content)
    ran = content["environment"]
    print_table(columns, rows, title=f"{ran['hardware']}, {ran['threads']} threads, torch {ran['torch']}")
    written: dict[str, Any] = {
        "bench.json": json.dumps(content, indent=2) + "\n",
        "bench.md": as_markdown(content),
        "bench.svg": as_svg(content),
    }
    for name, text in written.items():
        (output / name).write_text(text, encoding="utf-8")
    print(f"Written to {output}/: {', '.join(written)}")
    print_json(as_json, content)
