"""What an adversary sees and how well it does; audits of the mechanisms."""
