"""What tracing finds in each network of the zoo."""

from typing import NamedTuple


class Expected(NamedTuple):
    """Axes with their sizes, and what stays whole: layer → what its reason says."""

    axes: dict[str, int]
    whole: dict[str, str]


OUTPUT = "it is an output of the network"
SINGLE = "it is a single unit"
ROWS = "its rows are looked up by number"

EXPECTED = {
    "RNNoise": Expected(
        {
            "conv1": 8,
            "conv2": 12,
            "gru1.l0": 12,
        },
        {
            "dense_out": OUTPUT,
            "vad_dense": SINGLE,
        },
    ),
    "DTLN": Expected(
        {
            "sep1.rnn1.l0": 9,
            "sep2.rnn1.l0": 9,
        },
        {
            "sep1.dense": "`mul` ",
            "encoder_conv1": "`mean` in 'encoder_norm1' ",
            "sep2.dense": "`mean` in 'encoder_norm1' ",
            "decoder_conv1": OUTPUT,
        },
    ),
    "DeepFilterNet": Expected(
        {
            "erb_conv0.0": 4,
            "erb_conv1.1": 4,
            "emb_gru.linear_in.0": 8,
            "emb_gru.gru.l0": 8,
            "df_gru.linear_in.0": 8,
            "df_gru.gru.l0": 16,
            "df_gru.gru.l1": 8,
            "df_gru.linear_out.0": 8,
        },
        {
            "mask.0": OUTPUT,
            "df_out.0": OUTPUT,
        },
    ),
    "EnCodec": Expected(
        {
            "encoder.0.conv": 4,
            "encoder.1.shortcut.conv": 4,
            "encoder.1.block.1.conv": 2,
            "encoder.3.conv": 8,
            "encoder.4.lstm.l0": 8,
            "encoder.6.conv": 10,
            "decoder.0.conv": 8,
            "decoder.1.lstm.l0": 8,
            "decoder.3": 4,
            "decoder.4.shortcut.conv": 4,
            "decoder.4.block.1.conv": 2,
        },
        {
            "decoder.6.conv": OUTPUT,
        },
    ),
    "EnCodec weight norm": Expected(
        {
            "encoder.4.lstm.l0": 8,
            "decoder.0.conv": 8,
            "decoder.1.lstm.l0": 8,
        },
        {
            "encoder.0.conv": "`weight_norm` in 'encoder.1.shortcut.conv.parametrizations.weight.0' ",
            "encoder.1.block.1.conv": "`weight_norm` in 'encoder.1.block.3.conv.parametrizations.weight.0' ",
            "encoder.1.block.3.conv": "`weight_norm` in 'encoder.3.conv.parametrizations.weight.0' ",
            "encoder.1.shortcut.conv": "`weight_norm` in 'encoder.3.conv.parametrizations.weight.0' ",
            "encoder.3.conv": "`weight_norm` in 'encoder.6.conv.parametrizations.weight.0' ",
            "encoder.4.lstm.l1": "`weight_norm` in 'encoder.6.conv.parametrizations.weight.0' ",
            "encoder.6.conv": "`weight_norm` in 'decoder.0.conv.parametrizations.weight.0' ",
            "decoder.3": "`weight_norm` in 'decoder.3.parametrizations.weight.0' ",
            "decoder.4.block.1.conv": "`weight_norm` in 'decoder.4.block.3.conv.parametrizations.weight.0' ",
            "decoder.4.block.3.conv": "`weight_norm` in 'decoder.6.conv.parametrizations.weight.0' ",
            "decoder.4.shortcut.conv": "`weight_norm` in 'decoder.6.conv.parametrizations.weight.0' ",
            "decoder.6.conv": OUTPUT,
        },
    ),
    "Silero VAD": Expected(
        {
            "forward_basis_buffer": 9,
            "encoder.0": 10,
            "encoder.1": 6,
            "encoder.2": 6,
            "encoder.3": 12,
            "rnn": 12,
        },
        {
            "decoder.2": OUTPUT,
        },
    ),
    "FARGAN": Expected(
        {
            "fdense1": 9,
            "fconv1": 11,
            "fdense2": 12,
            "fwc0": 14,
            "gru1": 10,
            "gru2": 8,
            "skip_dense": 13,
        },
        {
            "sig_dense_out": OUTPUT,
        },
    ),
    "WaveRNN": Expected(
        {
            "resnet.0": 6,
            "resnet.3": 3,
            "I": 12,
            "fc1": 10,
            "fc2": 10,
        },
        {
            "up": "`cat` ",
            "fc3": OUTPUT,
        },
    ),
    "DPRNN": Expected(
        {
            "intra_rnn.l0": 6,
            "intra_rnn.l0_reverse": 6,
            "inter_rnn.l0": 6,
            "inter_rnn.l0_reverse": 6,
        },
        {
            "encoder": "`group_norm` in 'intra_norm' ",
            "intra_linear": "`group_norm` in 'intra_norm' ",
            "inter_linear": "`group_norm` in 'inter_norm' ",
            "conv2d": "`group_norm` in 'intra_norm' ",
            "decoder": OUTPUT,
        },
    ),
    "streaming GRU": Expected(
        {
            "encode": 7,
            "gru.l0": 8,
        },
        {
            "mask": "`mul` ",
        },
    ),
    "docTR CRNN": Expected(
        {
            "feat_extractor.0": 6,
            "feat_extractor.4": 8,
            "decoder.l0": 10,
            "decoder.l0_reverse": 10,
            "decoder.l1": 10,
            "decoder.l1_reverse": 10,
        },
        {
            "linear": "`argmax` ",
        },
    ),
    "EasyOCR": Expected(
        {
            "FeatureExtraction.0": 5,
            "FeatureExtraction.3": 8,
            "SequenceModeling.0.rnn.l0": 6,
            "SequenceModeling.0.rnn.l0_reverse": 6,
            "SequenceModeling.0.linear": 6,
            "SequenceModeling.1.rnn.l0": 6,
            "SequenceModeling.1.rnn.l0_reverse": 6,
            "SequenceModeling.1.linear": 6,
        },
        {
            "Prediction": OUTPUT,
        },
    ),
    "pyannote": Expected(
        {
            "conv2": 5,
            "lstm.l0": 8,
            "lstm.l0_reverse": 8,
            "lstm.l1": 8,
            "lstm.l1_reverse": 8,
            "linear.0": 7,
            "linear.1": 7,
        },
        {
            "classifier": "`log_softmax` ",
        },
    ),
    "bonito": Expected(
        {
            "conv.0": 4,
            "conv.2": 6,
            "conv.4": 8,
            "rnns.0.rnn.l0": 8,
            "rnns.1.rnn.l0": 8,
            "rnns.2.rnn.l0": 8,
            "rnns.3.rnn.l0": 8,
            "rnns.4.rnn.l0": 8,
        },
        {
            "linear": OUTPUT,
        },
    ),
    "RNN-T": Expected(
        {
            "encoder.l0": 10,
            "encoder.l1": 10,
            "embedding": 7,
            "predictor.l0": 8,
            "joint_enc": 9,
        },
        {
            "joint": "`log_softmax` ",
        },
    ),
    "icefall": Expected(
        {
            "conv.0": 3,
            "conv.2": 5,
            "layers.0.lstm.l0_cell": 40,
            "layers.0.feed_forward.0": 14,
            "layers.1.lstm.l0_cell": 40,
            "layers.1.feed_forward.0": 14,
            "embedding": 4,
            "context": 4,
            "encoder_proj": 10,
        },
        {
            "out": "`mean` in 'layers.0.norm_final' ",
            "layers.0.lstm.l0": "`mean` in 'layers.0.norm_final' ",
            "layers.0.feed_forward.2": "`mean` in 'layers.0.norm_final' ",
            "layers.1.lstm.l0": "`mean` in 'layers.0.norm_final' ",
            "layers.1.feed_forward.2": "`mean` in 'layers.0.norm_final' ",
            "output_linear": OUTPUT,
        },
    ),
    "Kokoro": Expected(
        {
            "lstm.l0": 6,
            "lstm.l0_reverse": 6,
        },
        {
            "embedding": "`weight_norm` in 'cnn.0.0.parametrizations.weight.0' ",
            "cnn.0.0": "`weight_norm` in 'cnn.1.0.parametrizations.weight.0' ",
            "cnn.1.0": "it is normalised over in 'cnn.1.1', which is no LayerNorm of torch's own",
            "to_mel": OUTPUT,
        },
    ),
    "DeepSpeech 2": Expected(
        {
            "conv.0": 4,
            "rnns.0.rnn.l0": 8,
            "rnns.1.rnn.l0": 8,
        },
        {
            "fc.1": "`log_softmax` ",
        },
    ),
    "Tacotron 2": Expected(
        {
            "memory": 8,
            "prenet.0": 7,
            "prenet.1": 7,
            "attention_rnn": 9,
            "location_conv": 4,
            "decoder_rnn": 10,
        },
        {
            "v": SINGLE,
            "projection": OUTPUT,
            "gate": SINGLE,
        },
    ),
    "language model": Expected(
        {
            "encoder": 8,
            "rnn.l0": 10,
            "rnn.l1": 10,
        },
        {
            "decoder": "`log_softmax` ",
        },
    ),
    "tied language model": Expected(
        {
            "encoder": 10,
            "rnn.l0": 10,
        },
        {
            "encoder": ROWS,
        },
    ),
    "AWD-LSTM": Expected(
        {
            "encoder": 8,
            "rnns.0.weight_hh_l0_raw": 11,
            "rnns.1.weight_hh_l0_raw": 11,
        },
        {
            "encoder": ROWS,
        },
    ),
    "attention seq2seq": Expected(
        {
            "source_embedding": 7,
            "encoder.l0": 6,
            "bridge": 9,
            "target_embedding": 5,
            "attention.attn": 8,
        },
        {
            "attention.v": SINGLE,
            "out": OUTPUT,
        },
    ),
    "GRU4Rec": Expected(
        {
            "E": 7,
            "G.0": 10,
        },
        {
            "By": "`add` ",
        },
    ),
    "residual LSTM": Expected(
        {
            "embed": 8,
            "lstms.0.l0": 10,
            "lstms.1.l0": 10,
            "lstms.2.l0": 10,
        },
        {
            "head": OUTPUT,
        },
    ),
    "autoencoder": Expected(
        {
            "rnn1.l0": 10,
            "rnn2.l0": 6,
            "rnn3.l0": 6,
            "rnn4.l0": 10,
        },
        {
            "output_layer": OUTPUT,
        },
    ),
    "TFT": Expected(
        {
            "static": 8,
            "contexts.0.fc1": 8,
            "contexts.0.fc2": 8,
            "contexts.1.fc1": 8,
            "contexts.1.fc2": 8,
            "contexts.2.fc1": 8,
            "contexts.2.fc2": 8,
            "contexts.3.fc1": 8,
            "contexts.3.fc2": 8,
            "select_past.weights.fc1": 8,
            "select_past.weights.fc2": 8,
            "select_past.networks.0.fc1": 8,
            "select_past.networks.0.fc2": 8,
            "select_past.networks.1.fc1": 8,
            "select_past.networks.1.fc2": 8,
            "select_past.networks.2.fc1": 8,
            "select_past.networks.2.fc2": 8,
            "select_future.weights.fc1": 8,
            "select_future.weights.fc2": 8,
            "select_future.networks.0.fc1": 8,
            "select_future.networks.0.fc2": 8,
            "select_future.networks.1.fc1": 8,
            "select_future.networks.1.fc2": 8,
            "v": 4,
            "feed.fc1": 8,
            "feed.fc2": 8,
        },
        {
            "select_past.weights.skip": "`softmax` in 'select_past' ",
            "select_past.weights.glu": "`softmax` in 'select_past' ",
            "select_future.weights.skip": "`softmax` in 'select_future' ",
            "select_future.weights.glu": "`softmax` in 'select_future' ",
            "q": "`matmul` ",
            "k": "`matmul` ",
            "out": OUTPUT,
        },
    ),
    "BiLSTM-CRF": Expected(
        {
            "words": 8,
            "characters.embedding": 4,
            "characters.conv": 6,
            "lstm.l0": 9,
            "lstm.l0_reverse": 9,
        },
        {
            "transitions": "`add` ",
            "hidden2tag": "`where` ",
        },
    ),
    "attention over GRU": Expected(
        {
            "gru.l0": 7,
            "gru.l0_reverse": 7,
        },
        {
            "to_width": "`multi_head_attention_forward` in 'attention' ",
            "head": OUTPUT,
        },
    ),
    "self-attentive LSTM": Expected(
        {
            "lstm.l0": 10,
        },
        {
            "qkv": "`scaled_dot_product_attention` ",
            "out": OUTPUT,
        },
    ),
    "LSTM classifier": Expected(
        {
            "embedding": 6,
            "lstm.l0": 8,
            "lstm.l0_reverse": 8,
            "lstm.l1": 8,
        },
        {
            "fc": OUTPUT,
        },
    ),
    "LayerNorm LSTM": Expected(
        {
            "weight_ih": 8,
        },
        {
            "head": OUTPUT,
        },
    ),
    "SRU": Expected(
        {
            "embedding": 8,
        },
        {
            "head": OUTPUT,
        },
    ),
    "minGRU": Expected(
        {
            "embed": 7,
            "to_hidden_and_gate": 10,
        },
        {
            "out": OUTPUT,
        },
    ),
    "sLSTM": Expected(
        {
            "up_proj": 12,
        },
        {
            "recurrent": "`group_norm` in 'norm' ",
            "up": "`group_norm` in 'norm' ",
            "conv": "`group_norm` in 'norm' ",
            "gates": "`group_norm` in 'norm' ",
            "down_proj": "`group_norm` in 'norm' ",
            "head": OUTPUT,
        },
    ),
    "Mamba": Expected(
        {
            "embedding": 8,
            "in_proj": 12,
        },
        {
            "x_proj": "`split` ",
            "lm_head": OUTPUT,
        },
    ),
    "ConvGRU": Expected(
        {
            "cells.0.conv_gates": 6,
            "cells.1.conv_gates": 5,
        },
        {
            "out": OUTPUT,
        },
    ),
    "QRNN": Expected(
        {
            "conv": 8,
        },
        {
            "head": OUTPUT,
        },
    ),
}
