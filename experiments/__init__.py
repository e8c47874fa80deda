"""Command-line programs: train, evaluate, compare, plan, audit."""
