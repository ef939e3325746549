"""Grapheme-to-phoneme: the published network of the package g2p_en, made small."""
