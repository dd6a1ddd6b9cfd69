"""Backbones x split -> features (N, D), extracted once and kept: the waist of the library."""
