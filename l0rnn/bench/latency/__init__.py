"""Milliseconds of a network over its widths: measured once, then interpolated so that gradients flow."""
