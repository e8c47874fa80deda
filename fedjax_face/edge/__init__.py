"""Split learning over the wire: frames, service, devices."""
