"""Face and image embeddings trained with federated learning and differential privacy, in JAX."""

__version__ = "0.1.0"
