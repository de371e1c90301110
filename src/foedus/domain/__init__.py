"""F0: the nouns of federated learning, tensor arithmetic, the codec, randomness and the error tree."""
