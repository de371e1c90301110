"""F1: the data of clients: columns, examples, batches, partitions and loading."""
