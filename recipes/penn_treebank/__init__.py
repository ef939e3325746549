"""Word-level language modelling on the Penn Treebank: data, networks, training, comparison."""
