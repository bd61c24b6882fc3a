"""Stems that keep the accuracy of a protected model and hide its key: what was tried."""
