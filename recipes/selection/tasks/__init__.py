"""One file for each task: `network`, `data`, `loss`, `evaluate`, `example_inputs`, `optimizer` and `epochs`."""
