"""Stage 1: pretrain one shared deep prompt on a mixture of tasks.

accelerate launch pipelines/pretrain_prompts.py --config configs/pretrain_open_ner.yaml
"""

import typer

from mpt.cli import main, pretrain

if __name__ == "__main__":
    main(lambda: typer.run(pretrain))
