"""The loop: mesh, dispatch, checkpoints, resume, metric writers and progress."""
