"""Which way of making a recurrent network smaller is best: eight small tasks on real data, trained alike."""
