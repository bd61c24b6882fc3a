"""Training on ImageNet, plain and encrypted: the published setting as one command."""
