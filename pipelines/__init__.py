"""The deeds of rgs: every stage, network, loss and artifact. Nothing here prints, reads argv or exits."""
