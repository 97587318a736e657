"""Named evaluation protocols over well-kept metric libraries. Numbers here know nothing of files."""
