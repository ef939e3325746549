"""Phonemes of a word by NumPy alone. This file stands by itself: copy it beside the weights."""

import numpy as np

PHONEMES = (
    "<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 "
    "EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH "
    "UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH"
).split()


class G2P:
    """The network of an .npz, float32 or int8; `G2P("small.npz")("hello")` gives a list of phonemes."""

    def __init__(self, path):  # noqa: ANN001
        with np.load(path) as file:
            scaled = {name: np.float32(file[name]) * file.get(name + "_scale", np.float32(1)) for name in file.files}
        # what a symbol adds to the gates, looked up instead of multiplied
        self.letters = scaled["enc_emb"] @ scaled["enc_w_ih"].T + scaled["enc_b_ih"]  # (symbol, 3 * unit)
        self.phonemes = scaled["dec_emb"] @ scaled["dec_w_ih"].T + scaled["dec_b_ih"]
        self.encoder = np.ascontiguousarray(scaled["enc_w_hh"].T), scaled["enc_b_hh"]
        self.decoder = np.ascontiguousarray(scaled["dec_w_hh"].T), scaled["dec_b_hh"]
        self.output = np.ascontiguousarray(scaled["fc_w"].T), scaled["fc_b"]

    def _step(self, gates, state, weight, bias):  # noqa: ANN001, ANN202
        units = len(state)
        recurrent = state @ weight + bias
        reset, update = np.split(1 / (1 + np.exp(-(gates[: 2 * units] + recurrent[: 2 * units]))), 2)
        new = np.tanh(gates[2 * units :] + reset * recurrent[2 * units :])
        return new + update * (state - new)

    def __call__(self, word):  # noqa: ANN001, ANN204
        if not (word.isascii() and word.isalpha() and word.islower()):
            raise ValueError(f"`word` must be of the letters a to z, in lower case, and not empty, got {word!r}")
        state = np.zeros(len(self.encoder[0]), np.float32)
        for letter in [*(ord(letter) - ord("a") + 3 for letter in word), 2]:
            state = self._step(self.letters[letter], state, *self.encoder)
        found = [2]
        while found[-1] != 3 and len(found) <= 20:
            state = self._step(self.phonemes[found[-1]], state, *self.decoder)
            found.append(int((state @ self.output[0] + self.output[1]).argmax()))
        return [PHONEMES[number] for number in found[1:] if number != 3]
