"""Names of SAR's tensors."""

from maerec_jax.models.names.resnet31 import resnet31
from maerec_jax.models.names.table import NameTable, Rule, biased, convolution, recurrent, same


def sar_names() -> NameTable:
    """The table of a model of any size. Linear layers of the attention are convolutions of 1 x 1 there."""
    query, score = r"decoder\.conv1x1_1", r"decoder\.conv1x1_2"
    return NameTable(
        [
            *resnet31(),
            *recurrent(r"encoder\.rnn_encoder", r"encoder/layers_\1/lstm", r"_l(\d+)"),
            *biased(r"encoder\.linear", "encoder/linear"),
            *convolution(r"decoder\.conv3x3_1", "decoder/conv_key", bias=True),
            Rule(
                rf"{query}\.weight", "decoder/query/kernel", lambda w: w[:, :, 0, 0].T, lambda k: k.T[..., None, None]
            ),
            same(rf"{query}\.bias", "decoder/query/bias"),
            Rule(
                rf"{score}\.weight", "decoder/score/kernel", lambda w: w[0, :, 0, 0], lambda k: k[None, :, None, None]
            ),
            Rule(rf"{score}\.bias", "decoder/score/bias", lambda b: b[0], lambda b: b[None]),
            *recurrent(r"decoder\.rnn_decoder_layer1", "decoder/lstm1"),
            *recurrent(r"decoder\.rnn_decoder_layer2", "decoder/lstm2"),
            same(r"decoder\.embedding\.weight", "decoder/embedding"),
            *biased(r"decoder\.prediction", "decoder/prediction"),
        ]
    )
