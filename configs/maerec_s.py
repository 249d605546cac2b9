"""Fine-tuning of MAERec-S on Union14M-L, as published: 10 epochs of 3.2 million labelled words.

Paper: Jiang et al., ICCV 2023, arXiv 2307.08723, section 5.2: AdamW, learning rate 1e-4, cosine to 1e-8, augmentation
after the resize. In the original code the loss of resolution switches itself off after a few images in each worker, so
that the published weights were trained without it: halvings is 0 here (--data.augmentation.halvings 4 has what the
paper describes). The published learning rate is for 512 images a step (128 a GPU); here it follows the batch size. The
paper draws the five levels as large as they are: --data.mixing by_size.
Expected: 78.6 % WAICS on Union14M-Benchmark when it starts from Union14M-U (paper).
Data: Union14M-L under data.root.
Run: python -m maerec_jax.train --config configs/maerec_s.py --data.root /path/to/Union14M \
       --init-from runs/mae_vit_s
"""

from data_pipelines.images.augmentation import Augmentation
from data_pipelines.sources import Annotations
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.maerec import MAERecConfig


def get_config() -> TrainConfig:
    """The run."""
    annotations = "Union14M-L/train_annos/mmocr1.0"
    levels = ("easy", "medium", "hard", "normal", "challenging")
    return TrainConfig(
        model=MAERecConfig.small(),
        data=DataConfig(
            root="data",
            train=tuple(Annotations(f"{annotations}/train_{level}.json") for level in levels),
            mixing="balanced",  # the five levels; --data.mixing by_size draws them as large as they are
            validation=(Annotations(f"{annotations}/val_annos.json"),),
            augmentation=Augmentation(frame="resized", halvings=0),
            workers=8,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, reference_batch=512, final_learning_rate=1e-8, weight_decay=0.01, decay_vectors=True
        ),
        batch_size=512,
        epochs=10.0,
        checkpoint_every=2000,
    )
