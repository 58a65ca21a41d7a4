"""Access control lists and their like: what they mean, and what the forwarder is given of them."""
