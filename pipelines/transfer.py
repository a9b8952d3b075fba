"""Stage 2: transfer a pretrained prompt to single tasks, beside baselines at equal steps and tuning.

python pipelines/transfer.py --init-from runs/pretrain_open_ner --manifest data_manifests/open_targets.yaml
"""

import typer

from mpt.cli import main, transfer

if __name__ == "__main__":
    main(lambda: typer.run(transfer))
