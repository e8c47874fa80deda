"""One trainer's DP-SGD on units, built from exchangeable parts."""
