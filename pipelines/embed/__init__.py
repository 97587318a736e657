"""Embedders: networks that map views of a place, or pieces of a bank, to vectors whose nearness means likeness."""
