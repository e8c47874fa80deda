"""What the pages of the repository say: their commands, code, links and pictures."""
