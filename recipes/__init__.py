"""Recipes: complete experiments on real data, run from a checkout as ``python -m recipes.<name>.<script>``."""
