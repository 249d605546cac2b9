"""Pre-training on a sample of Union14M-U on two CPU cores: a small encoder, with rendered words beside the real ones.

Data: Union14M-U's LMDBs under data.root; any sample of them will do.
Measured: reconstruction loss 0.069 on rendered words after 3 minutes on two cores of an AMD EPYC, with 7,104 real
images (1,714 in book32_lmdb, 3,820 in cc_lmdb, 1,570 in openvino_lmdb).
Run: python -m maerec_jax.train --config configs/two_cores_mae.py --data.root /path/to/Union14M
"""

from data_pipelines.rendering import RenderedWords
from data_pipelines.sources import LmdbWords
from maerec_jax.config import DataConfig, OptimizerConfig, TrainConfig
from maerec_jax.models.mae import MAEConfig
from maerec_jax.models.vit import ViTConfig


def get_config() -> TrainConfig:
    """The run."""
    names = ("book32_lmdb", "cc_lmdb", "openvino_lmdb")
    encoder = ViTConfig(dim=128, depth=6, heads=4, patch_size=(32, 8), position_table="grid")
    return TrainConfig(
        model=MAEConfig(
            encoder=encoder, decoder_dim=128, decoder_depth=2, decoder_heads=4, mask_ratio=0.5, norm_pix=False
        ),
        data=DataConfig(
            root="data",
            train=(
                *(LmdbWords(f"Union14M-U/{name}", labelled=False) for name in names),
                RenderedWords(weight=0.3, difficulty=0.6),
            ),
            validation=(RenderedWords(size=256, split="validation"),),
            interpolation="bicubic",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=150, weight_decay=0.05, betas=(0.9, 0.95)),
        batch_size=128,
        steps=800,
        validate_every=400,
    )
