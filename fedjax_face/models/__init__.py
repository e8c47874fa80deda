"""Backbones (images -> embeddings), heads (embeddings -> logits) and the layers they are made of.

Every network is a `flax.linen` module without batch statistics, dropout or a `train` argument: its
output for one image never depends on the other images of the batch, so that clients can be vmapped
or scanned and one example's influence can be clipped.
"""
