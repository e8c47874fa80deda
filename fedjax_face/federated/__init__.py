"""One federated round, built from exchangeable parts."""
