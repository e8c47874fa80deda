"""Split learning: device part, cut, mechanism and server part of one network as pure functions."""
