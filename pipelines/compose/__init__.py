"""Guidance images: real pieces pasted on a layout, and ground truth distorted to look like them (RESAIL)."""
