"""One page per published system: parts chosen and wired."""
