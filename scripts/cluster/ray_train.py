"""One node of eight GPUs under Ray Train, which starts it again up to three times: `python ray_train.py`."""

import shlex
import subprocess
import sys

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.data_parallel_trainer import DataParallelTrainer

WORDS = """-m torch.distributed.run --nproc-per-node=8 -m fastsemi train
  --config configs/imagenet/vit_base_10p.yaml --data.root s3://bucket/imagenet
  --data.train 'train-{000..127}.tar' --data.val 'val-{00..07}.tar'
  --train.mirror s3://bucket/runs/vit_base_10p"""


def train() -> None:
    """Runs on the node; a new one goes on from the copy in the bucket."""
    subprocess.run([sys.executable, *shlex.split(WORDS)], check=True)


if __name__ == "__main__":
    node = ScalingConfig(num_workers=1, resources_per_worker={"GPU": 8})
    DataParallelTrainer(
        train, scaling_config=node, run_config=RunConfig(failure_config=FailureConfig(3))
    ).fit()
