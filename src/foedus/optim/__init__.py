"""F1: functional optimizers, used by clients on gradients and by the server on pseudo-gradients."""
