"""Classification of Reber grammar strings: pruning, random structures and neuron selection on four recurrent cells."""
