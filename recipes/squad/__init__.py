"""BiDAF on SQuAD v1.1."""
