"""Compare methods on tasks: the paper's tables and ablations, as a configuration says.

python pipelines/compare.py --config configs/compare/open_small.yaml
"""

import typer

from mpt.cli import compare, main

if __name__ == "__main__":
    main(lambda: typer.run(compare))
