"""What processes of runs would all load and compute anew: the one that they are forked from imports this first."""

import gc

import tensorboardX  # noqa: F401

import maerec_jax.evaluate
import maerec_jax.train
import maerec_jax.training.loop  # noqa: F401
from tests.training.conftest import words

for split in ("train", "validation"):
    words(1, split).open()[0]  # dictionaries and fonts
gc.freeze()  # none of them has to look through all this for garbage
