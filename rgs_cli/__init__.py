"""The words of rgs: how the user speaks. Translates argv to configs, exceptions to exit codes, artifacts to a line."""
