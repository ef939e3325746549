"""Phonemes of a word by NumPy alone. This file stands by itself: copy it beside the weights."""

import numpy as np

VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
OTHERS = "UW B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"  # consonants, and one vowel without stress
SOUNDS = OTHERS.split(" ") + [vowel + stress for vowel in VOWELS.split(" ") for stress in "012"]
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *sorted(SOUNDS)]


class G2P:
    """The network of an .npz, float32 or int8; `G2P("small.npz")("hello")` gives a list of phonemes."""

    def __init__(self, path: str) -> None:
        with np.load(path) as file:
            scaled = {name: np.float32(file[name]) * file.get(name + "_scale", np.float32(1)) for name in file.files}
        # what a symbol adds to the gates, looked up instead of multiplied
        self.letters = scaled["enc_emb"] @ scaled["enc_w_ih"].T + scaled["enc_b_ih"]  # (symbol, 3 * unit)
        self.phonemes = scaled["dec_emb"] @ scaled["dec_w_ih"].T + scaled["dec_b_ih"]
        self.encoder = np.ascontiguousarray(scaled["enc_w_hh"].T), scaled["enc_b_hh"]
        self.decoder = np.ascontiguousarray(scaled["dec_w_hh"].T), scaled["dec_b_hh"]
        self.output = np.ascontiguousarray(scaled["fc_w"].T), scaled["fc_b"]

    def _step(self, gates: np.ndarray, state: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        units = len(state)
        recurrent = state @ weight + bias
        both = 1 / (1 + np.exp(-(gates[: 2 * units] + recurrent[: 2 * units])))  # reset, then update
        new = np.tanh(gates[2 * units :] + both[:units] * recurrent[2 * units :])
        return new + both[units:] * (state - new)

    def __call__(self, word: str) -> list[str]:
        """Phonemes of a word of the letters a to z; vowels have a digit that tells their stress."""
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
