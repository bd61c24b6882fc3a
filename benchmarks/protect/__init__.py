"""What folding a key into a model costs, beside a layer that decrypts."""
