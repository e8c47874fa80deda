"""Figures and the HTML page made from run folders."""
