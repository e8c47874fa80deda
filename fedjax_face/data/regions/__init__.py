"""Candidate regions of photographs: proposed, labelled, cut out."""
